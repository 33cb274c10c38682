"""Arrays of a reply are no larger than a release of the study: Flower itself sets no limit.

An array's object names its chunks, and may name one of them any number of times:
70 KiB that were sent can become hundreds of megabytes before a byte of the
reply is looked at.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from flwr.app import Array

from septum.errors import WireError

_DIVIDER: Final = b"\x00"  # between an object's head and body, in Flower's form


class Allowance:
    """How many bytes of arrays may still be made of the reply that is being read.

    Args:
      most: Bytes of one reply's arrays.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def renew(self) -> None:
        """Begin another reply."""
        self._left = self._most

    def spend(self, content: bytes, chunks: dict[str, Any]) -> None:
        """Count what an array would be made of.

        Args:
          content: The array's object.
          chunks: By name; what the object names, once or more often.

        Raises:
          WireError: It would be more than is left.
        """
        named = json.loads(content.partition(_DIVIDER)[2])["arraychunk_ids"]
        self._left -= len(named) * max((len(chunk.data) for chunk in chunks.values()), default=0)
        if self._left < 0:
            raise WireError(f"a reply's arrays take more than {self._most} bytes.")


@contextmanager
def at_most(most: int) -> Iterator[Allowance]:
    """Hold Flower to ``most`` bytes of arrays in a reply, until the end of the block.

    For a ServerApp's own process: Flower offers no other place between a reply's
    parts, which are small, and the arrays that it makes of them.
    """
    allowance, flowers = Allowance(most), Array.__dict__["inflate"]

    def inflate(cls: type[Array], object_content: bytes, children: Any = None) -> Array:
        allowance.spend(object_content, children or {})
        made: Array = flowers.__func__(cls, object_content, children)
        return made

    Array.inflate = classmethod(inflate)  # type: ignore[method-assign, assignment] # see above
    try:
        yield allowance
    finally:
        Array.inflate = flowers  # type: ignore[method-assign] # as it was
