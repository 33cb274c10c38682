"""What a child was told once: the child's half of :mod:`septum_client.sandbox.settings`."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from septum_client.deid.engine import Deidentifier
from septum_client.masks.finding import Masks
from septum_client.rules import Intake
from septum_client.screening import verdict
from septum_client.screening.boxes import Box


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What holds for a whole run.

    Args:
      engine: The de-identifier.
      image_size: Pixels a side in training.
      depth: Slices of a volume.
      known: Keyed hashes of files that need no second look.
      masks: For a segmentation, what is known of them.
    """

    engine: Deidentifier
    image_size: int
    depth: int
    known: frozenset[str] = field(repr=False)
    masks: Masks | None = field(default=None, repr=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Return the settings that the parent sent as JSON."""
        linkage = fields["linkage_key"]
        return cls(
            engine=Deidentifier(
                key=bytes.fromhex(fields["key"]),
                rules=Intake.model_validate(fields["rules"]),
                decisions={
                    name: verdict.Decision(
                        verdict=said["verdict"], boxes=tuple(Box(*box) for box in said["boxes"])
                    )
                    for name, said in fields["decisions"].items()
                },
                linkage_key=None if linkage is None else bytes.fromhex(linkage),
            ),
            image_size=fields["image_size"],
            depth=fields["depth"],
            known=frozenset(fields["known"]),
            masks=Masks.of(fields["masks"]),
        )

    def named(self, purpose: bytes, data: bytes) -> str:
        """Return a keyed hash of some bytes, 32 hex characters."""
        digest = hashlib.sha256(data).digest()
        return hmac.digest(self.engine.key, purpose + digest, "sha256").hex()[:32]
