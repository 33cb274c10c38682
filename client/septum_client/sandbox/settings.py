"""What the children are told once: the parent's half of :class:`septum_client.reading.Settings`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from septum_client.rules import Intake
from septum_client.screening.verdict import Decision


def settings(
    key: bytes,
    *,
    rules: Intake,
    decisions: Mapping[str, Decision],
    image_size: int = 64,
    depth: int = 1,
    known: Iterable[str] = (),
    linkage_key: bytes | None = None,
    masks: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the settings as JSON can carry them.

    Args:
      key: The site's key.
      rules: What may pass.
      decisions: What a person decided on the review page.
      image_size: Pixels a side in training.
      depth: Slices of a volume; 1 makes every frame an image.
      known: Keyed hashes of files that need not be read again.
      linkage_key: Simulations only.
      masks: For a segmentation (:meth:`septum_client.masks.gathering.Index.told`).
    """
    return {
        "key": key.hex(),
        "linkage_key": None if linkage_key is None else linkage_key.hex(),
        "rules": rules.model_dump(mode="json"),
        "decisions": {name: asdict(said) for name, said in decisions.items()},
        "image_size": image_size,
        "depth": depth,
        "known": sorted(known),
        "masks": masks,
    }
