"""What a child answers about one file: pseudonyms, closed codes, numbers and raw pixels."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.deid.engine import Refused
from septum_client.owner import Owner

Header = dict[str, Any]
Answer = tuple[Header, bytes]


def prepared(
    owner: Owner,
    images: Mapping[int, NDArray[np.float32]],
    *,
    spoilt: int = 0,
    facts: Header | None = None,
    reviewed: bool = False,
    masks: Mapping[int, NDArray[np.uint8]] | None = None,
) -> Answer:
    """Return images at training values, each followed by its mask; or a refusal without any."""
    if not images:
        return refused(Refused(code=Quarantine.BAD_VALUES, owner=owner))
    header = {
        "owner": asdict(owner),
        "frames": list(images),
        "spoilt": spoilt,
        "facts": facts or {},
    }
    if reviewed:
        # A person can take a decision back: the next ingest reads the file again.
        header["source"] = ""
    parts: list[bytes] = []
    for index, image in images.items():
        parts.append(image.astype("<f2").tobytes())
        if masks is not None:
            parts.append(masks[index].tobytes())
    return header, b"".join(parts)


def refused(found: Refused) -> Answer:
    """Return a code, whose file it was, and what a reviewer may look at."""
    header: Header = {"code": found.code.value, "owner": asdict(found.owner)}
    if found.preview is None:
        return header, b""
    preview = found.preview
    header["preview"] = {
        "name": preview.name,
        "shape": list(preview.image.shape),
        "boxes": preview.boxes,
        "scale": preview.scale,
    }
    return header, preview.image.tobytes()
