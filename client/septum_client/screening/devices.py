"""Known devices and where they write a name: data, read from ``devices.json``."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from septum_client.screening.boxes import Box


@dataclass(frozen=True, kw_only=True)
class Device:
    """One layout of one device.

    Args:
      modality: Modality (0008,0060), equal.
      manufacturer: Part of Manufacturer (0008,0070), in capitals.
      model: Part of Manufacturer's Model Name (0008,1090), in capitals.
      rows: Rows (0028,0010), equal.
      columns: Columns (0028,0011), equal: another size is another layout.
      blank: Where text was seen.
      cite: Which entry of the source says so.
    """

    modality: str
    manufacturer: str
    model: str
    rows: int
    columns: int
    blank: tuple[Box, ...]
    cite: str

    def made(
        self, *, modality: str, manufacturer: str, model: str, rows: int, columns: int
    ) -> bool:
        """Say whether an image with these header values has this layout."""
        return (
            (self.modality, self.rows, self.columns) == (modality, rows, columns)
            and self.manufacturer in manufacturer.upper()
            and self.model in model.upper()
        )


@cache
def devices() -> tuple[Device, ...]:
    """Return every known layout, in the order of the data file."""
    text = files(__package__).joinpath("devices.json").read_text(encoding="utf-8")
    return tuple(_device(entry) for entry in json.loads(text)["devices"])


def _device(entry: dict[str, object]) -> Device:
    rectangles = entry["blank"]
    if not isinstance(rectangles, list):
        raise TypeError("devices.json: blank is a list of rectangles")
    blank = tuple(
        Box(top, left, top + height, left + width) for left, top, width, height in rectangles
    )
    return Device(**{**entry, "blank": blank})  # type: ignore[arg-type]  # the data file's own keys
