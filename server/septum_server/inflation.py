"""A reply is no larger than a release of the study, and nobody waits for a part of it.

Flower itself sets no limit: a reply may come in gigabytes of parts, and the
ServerApp would wait hours for one that is missing. An array's object names its
chunks, and may name one of them any number of times: 70 KiB that were sent can
become hundreds of megabytes before a byte of the reply is looked at.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

from flwr.app import Array

from septum.errors import WireError

_GRID: Final = "flwr.superlink.grid.http_grid"  # loaded where replies come by a network
_DIVIDER: Final = b"\x00"  # between an object's head and body, in Flower's form


class Allowance:
    """How many bytes of the reply that is being read may still come, and be made into arrays.

    Args:
      most: Bytes of one reply's parts, and of its arrays.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = self._coming = most
        self._lock = threading.Lock()  # Flower pulls parts in two threads

    def renew(self) -> None:
        """Begin another reply."""
        self._left = self._coming = self._most

    def pulled(self, part: bytes) -> bytes:
        """Return a part of the reply that has come, and count it.

        Raises:
          WireError: The parts are more than is left.
        """
        with self._lock:
            self._coming -= len(part)
            if self._coming < 0:
                raise WireError(f"a reply's parts take more than {self._most} bytes.")
        return part

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
    """Hold Flower to ``most`` bytes of a reply, until the end of the block.

    For a ServerApp's own process: Flower offers no other place between a reply's
    announcement, its parts, and the arrays that it makes of them.

    Guarantees:
      - A part that is not there when it is asked for is not asked for again: what the
        SuperLink hands out is whole (:func:`septum_server.superlink.whole_only`), or
        never will be.
    """
    allowance, flowers = Allowance(most), Array.__dict__["inflate"]
    # Without a network nothing is pulled: a simulation's grid hands over what it has.
    grid: Any = sys.modules.get(_GRID, SimpleNamespace(pull_objects=None))
    pull = grid.pull_objects

    def inflate(cls: type[Array], object_content: bytes, children: Any = None) -> Array:
        allowance.spend(object_content, children or {})
        made: Array = flowers.__func__(cls, object_content, children)
        return made

    Array.inflate = classmethod(inflate)  # type: ignore[method-assign, assignment] # see above
    grid.pull_objects = _once(pull, allowance)
    try:
        yield allowance
    finally:
        Array.inflate = flowers  # type: ignore[method-assign] # as it was
        grid.pull_objects = pull


def _once(pull: Callable[..., Any], allowance: Allowance) -> Callable[..., Any]:
    """Return Flower's pulling of a reply's parts, each once and all within the allowance."""

    def pull_objects(*, object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> Any:
        return pull(
            object_ids=object_ids,
            pull_object_fn=lambda name: allowance.pulled(pull_object_fn(name)),
            max_tries_per_object=1,
        )

    return pull_objects
