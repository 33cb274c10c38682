"""One file out of a multipart answer, whatever the answer is."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum_client.pacs.multipart import MalformedError, only_part

KIND = 'multipart/related; type="application/dicom"; boundary="b-1"'
HEAD = b"Content-Type: application/dicom; transfer-syntax=1.2\r\nContent-Length: 4\r\n\r\n"


def answer(content, head=HEAD, before=b"", after=b"\r\n--b-1--"):
    return before + b"--b-1\r\n" + head + content + after


@given(content=st.binary(max_size=300))
def test_the_file_comes_out_to_the_byte(content):
    if b"\r\n--b-1" not in content:
        assert only_part(answer(content), KIND) == content
        assert only_part(answer(content, before=b"\r\n"), KIND) == content
        assert only_part(
            answer(content, before=b"preamble\r\n", after=b"\r\n--b-1--\r\n"), KIND
        ) == (content)


def test_a_bare_file_is_taken_as_it_is():
    assert only_part(b"\0" * 128 + b"DICM", "application/dicom") == b"\0" * 128 + b"DICM"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (answer(b"x", after=b""), KIND),
        (answer(b"x", after=b"\r\n--b-1\r\n" + HEAD + b"y\r\n--b-1--"), KIND),
        (answer(b"x", head=b"Content-Type: text/html\r\n\r\n"), KIND),
        (answer(b"x", head=b"\r\n"), KIND),
        (answer(b"x", head=b"A: " + b"a" * 20_000 + b"\r\n" + HEAD), KIND),
        (b"", KIND),
        (b"--b-1--", KIND),
        (answer(b"x"), "multipart/related"),
        (answer(b"x"), "multipart/related; boundary=\u00e9"),
        (answer(b"x"), "text/html; boundary=b-1"),
        (answer(b"x"), ""),
    ],
)
def test_anything_but_one_whole_dicom_part_is_refused(body, kind):
    with pytest.raises(MalformedError):
        only_part(body, kind)


@given(body=st.binary(max_size=200), kind=st.text(max_size=80))
def test_no_answer_makes_it_raise_anything_else(body, kind):
    for said in (kind, KIND):
        with contextlib.suppress(MalformedError):
            only_part(body, said)
