"""The pieces every record of findings is made of: frozen, closed, and equal after a round trip."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants"
    )


def _pack(image: npt.NDArray[np.uint8]) -> dict[str, object]:
    return {"shape": list(image.shape), "hex": image.tobytes().hex()}


def _unpack(value: object) -> npt.NDArray[np.uint8]:
    if isinstance(value, np.ndarray):
        return np.asarray(value, dtype=np.uint8)
    if not isinstance(value, dict):
        raise TypeError("an image is an array or its packed form")
    flat = np.frombuffer(bytes.fromhex(value["hex"]), dtype=np.uint8)
    return flat.reshape(value["shape"])


Image = Annotated[npt.NDArray[np.uint8], PlainValidator(_unpack), PlainSerializer(_pack)]
"""A grey image, uint8 of shape ``(height, width)``."""


class Interval(Record):
    """A figure with its 95 % interval; all ``None`` when the data cannot resolve it.

    ``reason`` then says why (for example "one class only").
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Reconstruction(Record):
    """One target patient's image, what the attack made of it, and the best blind guess.

    ``reconstruction`` is of the release; ``control`` is of its unprotected twin and
    ``null`` is the same attack's image of another patient's data. Figures are of
    one image each, data range 1. ``rank`` counts from 1 among ``gallery`` patients.
    """

    site: str
    original: Image
    reconstruction: Image
    prior: Image
    psnr: float
    ssim: float
    prior_psnr: float
    prior_ssim: float
    rank: int
    gallery: int | None = None
    control: Image | None = None
    control_psnr: float | None = None
    control_ssim: float | None = None
    control_rank: int | None = None
    null: Image | None = None
    null_psnr: float | None = None
    null_ssim: float | None = None
    null_rank: int | None = None
