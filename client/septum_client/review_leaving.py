"""Every field that can leave for one study, with its size: :mod:`septum.egress` in words."""

from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from septum.egress import refusal_fields, release_fields

_MEANS: Final = MappingProxyType(
    {
        "study": "the study's digest",
        "site": "this hospital's public name",
        "round": "the round's number",
        "instruction": "the digest of the order that is answered",
        "noise_multiplier": "the mechanism's public constant",
        "max_grad_norm": "the mechanism's public constant",
        "ledger_head": "a digest that fixes the ledger at this release",
        "signature": "this hospital's, over all of it",
        "code": "a code of a closed list, instead of a release",
        "steps": "a metric: the number of steps, the same every round",
        "update_norm": "a metric: the length of the update, which leaves anyway",
    }
)


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """One field that can leave, and its size at most, without the envelope."""

    name: str
    means: str
    most_bytes: int

    @property
    def text(self) -> str:
        """Return size and meaning."""
        return f"{size(self.most_bytes)}: {self.means}"


def leaving(metrics: Collection[str], *, parameters: int) -> list[Leaving]:
    """Return every field of a release or a refusal, the vector first.

    Args:
      metrics: What the policy lets out.
      parameters: Trained numbers of the network.
    """
    vector, *released = release_fields(metrics=metrics, parameters=parameters)
    said = {field.name: field.most_bytes for field in (*released, *refusal_fields())}
    numbers = f"{parameters:,} numbers, clipped and noised here, once a round"
    return [
        Leaving(name="update", means=numbers, most_bytes=vector.most_bytes),
        *(Leaving(name=name, means=_MEANS[name], most_bytes=most) for name, most in said.items()),
    ]


def size(most_bytes: float) -> str:
    """Return a size for people, in bytes, KiB, MiB or GiB."""
    for unit, above in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if most_bytes >= above:
            return f"{most_bytes / above:.1f} {unit}"
    return f"{most_bytes:.0f} bytes"
