"""How much one peer may ask for and send: buckets that fill with time, and an answer's size.

Pure; the clock is passed in.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

MOST_PEERS: Final = 10_000
"""Peers remembered at once; the one that was silent longest is forgotten first."""

LARGEST_PART: Final = 6 << 20
"""Bytes of one part of an answer: a chunk of Flower's, 5 MiB, and what is round about it."""

_CHUNK: Final = 5 << 20
_OTHER_PARTS: Final = 16  # a release has six parts besides its chunks
_FLOAT32: Final = 4


def answer_bytes(parameters: int) -> int:
    """Return how many bytes all parts of an answer may take: an update's, and one part's more."""
    return _FLOAT32 * parameters + LARGEST_PART


def answer_parts(most_bytes: int) -> int:
    """Return of how many parts an answer of at most ``most_bytes`` may be made.

    >>> answer_parts(answer_bytes(11_200_000))
    25
    """
    return _OTHER_PARTS + most_bytes // _CHUNK


def order_group(round: int, *, parameters: int, token: str) -> str:
    """Return the name of an order's group, which tells the SuperLink how large an answer may be.

    The SuperLink reads it of the order that it keeps, never of an answer.

    >>> allowed_bytes(order_group(3, parameters=100, token="6f"))
    6291856
    """
    return f"{round}-{answer_bytes(parameters)}-{token}"


def allowed_bytes(group: str) -> int:
    """Return what :func:`order_group` wrote into ``group``; 0 for any other name."""
    said = re.fullmatch(r"[0-9]+-([0-9]{1,15})-[0-9a-f]+", group)
    return int(said[1]) if said else 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the edge lets one request and one peer take.

    Args:
      body_bytes: Largest request body.
      requests_per_s: Of one peer's address, in the long run.
      burst: Requests that a peer may make at once after a pause.
      bytes_per_s: Request bodies of one peer's address, in the long run.
      burst_bytes: Bytes that a peer may send at once after a pause.
      least_free_bytes: With less free disk than this, uploads wait.
      body_s: Seconds within which the next part of a body must come.
      small_s: Seconds within which a small body must have come whole.
      slow_s: Seconds of a body's way for which its average rate does not matter.
      least_bytes_per_s: A body's average rate, at least, after that.
      head_s: Seconds within which a connection must have sent a request's head.
      connections: Of one peer's address, at the same time, before TLS has begun included.
    """

    body_bytes: int = 16 << 20
    requests_per_s: float = 50.0
    burst: float = 400.0
    bytes_per_s: float = 32 << 20
    burst_bytes: float = 2 << 30
    least_free_bytes: int = 1 << 30
    body_s: float = 30.0
    small_s: float = 5.0
    slow_s: float = 30.0
    least_bytes_per_s: float = 16 << 10
    head_s: float = 15.0
    connections: int = 64


@dataclass(kw_only=True)
class _Bucket:
    left: float
    at: float


@dataclass
class Buckets:
    """One bucket a peer, which fills at ``rate`` up to ``most``.

    >>> buckets = Buckets(rate=1.0, most=2.0)
    >>> [buckets.take("north", 1.0, now=0.0) for _ in range(3)]
    [True, True, False]
    >>> buckets.take("north", 1.0, now=1.0)
    True

    Guarantees:
      - However many peers ask, at most :data:`MOST_PEERS` are remembered.
    """

    rate: float
    most: float
    _of: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict, repr=False)

    def take(self, peer: str, amount: float, *, now: float) -> bool:
        """Take ``amount`` from the peer's bucket if it holds as much; whether it did."""
        bucket = self._of.setdefault(peer, _Bucket(left=self.most, at=now))
        self._of.move_to_end(peer)
        while len(self._of) > MOST_PEERS:
            self._of.popitem(last=False)
        bucket.left = min(self.most, bucket.left + (now - bucket.at) * self.rate)
        bucket.at = now
        if bucket.left < amount:
            return False
        bucket.left -= amount
        return True
