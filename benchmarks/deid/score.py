"""Judges an output: what survived, whether the image is the same, whether it is still DICOM."""

import re
import subprocess
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from plant import Planted, searchable
from pydicom.pixels import pixel_array


def survivors(planted: Planted, output: bytes) -> Counter[str]:
    """Return how many planted tokens of each class are in the output's bytes."""
    try:
        found = searchable(output)
    except Exception:  # noqa: BLE001 - what pydicom cannot read is searched as it is
        found = output
    return Counter(
        {kind: sum(t in found for t in tokens) for kind, tokens in planted.tokens.items()}
    )


def image(data: bytes) -> NDArray[np.integer] | None:
    """Return the stored values, bits beyond Bits Stored cleared; None if there is no image.

    Those bits are not of the image (PS3.5 8.1.1): they hold an overlay or rubbish.
    """
    try:
        ds = pydicom.dcmread(BytesIO(data), force=True)
        values = pixel_array(ds, raw=True)
    except Exception:  # noqa: BLE001 - no decoder, damaged, or not an image
        return None
    if values.dtype.kind not in "iu":
        return values
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native.view(f"u{native.dtype.itemsize}") & ((1 << int(ds.BitsStored)) - 1)


def image_kept(before: NDArray[np.integer], output: bytes) -> bool:
    """Return whether the output shows the same image, bit by bit."""
    after = image(output)
    return after is not None and after.shape == before.shape and np.array_equal(before, after)


def errors(path: Path) -> Counter[str]:
    """Return what dciodvfy calls an error, line by line; digits do not tell lines apart."""
    told = subprocess.run(
        ["/usr/bin/dciodvfy", str(path)], capture_output=True, check=False, timeout=60
    )
    text = (told.stdout + told.stderr).decode("latin-1")
    # A new UID in an old complaint is not a new complaint.
    lines = (re.sub(r"[0-9.]+", "#", line) for line in text.splitlines())
    return Counter(line for line in lines if line.startswith("Error"))
