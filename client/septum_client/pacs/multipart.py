"""The one DICOM file in a multipart answer, by its boundary alone (PS3.18 8.7.3, RFC 2046)."""

from email.message import Message
from typing import Final

_DICOM: Final = "application/dicom"
_MAX_HEADER_BYTES: Final = 2**14


class MalformedError(Exception):
    """The answer is not what was asked for. Says nothing of its content."""


def only_part(body: bytes, content_type: str) -> bytes:
    r"""Return the file in the answer to a request for one instance.

    Args:
      body: The whole answer.
      content_type: Its Content-Type. Some servers send one instance bare, as
        ``application/dicom``; that is taken too.

    Raises:
      MalformedError: No part, more than one, another type, or an end that is missing.

    >>> only_part(
    ...     b"--x\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--x--\r\n",
    ...     'multipart/related; type="application/dicom"; boundary=x',
    ... )
    b'DICM'
    """
    kind = _typed(content_type)
    if kind.get_content_type() == _DICOM:
        return body
    boundary = kind.get_param("boundary")
    if kind.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise MalformedError
    try:
        fence = b"\r\n--" + boundary.encode("ascii")
    except UnicodeEncodeError:
        raise MalformedError from None
    # The first fence may stand at the very start, without the line break before it.
    start = 0 if body.startswith(fence[2:]) else body.find(fence)
    if start < 0:
        raise MalformedError
    head = start + len(fence)
    blank = body.find(b"\r\n\r\n", head, head + _MAX_HEADER_BYTES)
    end = body.find(fence, blank)
    if blank < 0 or end < 0 or not body.startswith(b"--", end + len(fence)):
        raise MalformedError
    if _declared(body[head:blank]) != _DICOM:
        raise MalformedError
    return body[blank + 4 : end]


def _declared(header: bytes) -> str:
    for line in header.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            return _typed(value.strip()).get_content_type()
    return ""


def _typed(value: str) -> Message:
    message = Message()
    message["Content-Type"] = value.replace("\r", "").replace("\n", "")
    return message
