"""Pixels without stowaways: exactly the bytes an image needs, exactly the bits it stores.

Overlays in unused bits, bytes behind the last frame, comments inside compressed
frames and offset tables do not survive. The image is bit-exact.
Sources: DICOM PS3.5 8.1.1 (bits), 8.2 (encapsulation), A.4; PS3.3 C.7.6.3.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from septum.errors import Quarantine
from septum_client.reject import Rejected

_WORDS: Final = {8: "<u1", 16: "<u2", 32: "<u4"}
# Samples per pixel as stored, where chrominance is subsampled (PS3.3 C.7.6.3.1.2).
_STORED_SAMPLES: Final = {"YBR_FULL_422": 2.0, "YBR_PARTIAL_422": 2.0, "YBR_PARTIAL_420": 1.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the pixels of one image lie in memory (PS3.3 C.7.6.3), checked.

    Raises:
      Rejected: CANNOT_DECODE, for bits that contradict each other; COLOUR, for
        neither one sample per pixel nor three.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    def __post_init__(self) -> None:
        fits = 1 <= self.bits_stored <= self.high_bit + 1 <= self.bits_allocated
        if not fits or self.bits_allocated not in {1, *_WORDS}:
            raise Rejected(Quarantine.CANNOT_DECODE)
        if self.samples not in {1, 3}:
            raise Rejected(Quarantine.COLOUR)

    @property
    def native_bytes(self) -> int:
        """Bytes of all frames uncompressed, without padding."""
        samples = _STORED_SAMPLES.get(self.photometric, float(self.samples))
        values = int(self.rows * self.columns * samples) * self.frames
        return -(-values * self.bits_allocated // 8)


def native(content: bytes, layout: Layout, *, swapped: int = 0) -> bytes:
    """Return uncompressed pixels as little-endian bytes of an even length.

    Args:
      content: The value of Pixel Data.
      layout: What the header says of it.
      swapped: Bytes per word of a big-endian file; 0 for a little-endian one.

    Guarantees:
      - Stored values are those of ``content``, bit for bit. Bits below and
        above them are zero; above a signed value they repeat its sign.

    Raises:
      Rejected: TRUNCATED, where there are fewer bytes than pixels.
    """
    expected = layout.native_bytes
    whole = expected + expected % max(swapped, 1)
    if len(content) < expected:
        raise Rejected(Quarantine.TRUNCATED)
    exact = content[:whole] if swapped else content[:expected]
    if swapped > 1:
        exact = exact.ljust(whole, b"\0")
        exact = np.frombuffer(exact, f">u{swapped}").astype(f"<u{swapped}").tobytes()[:expected]
    exact = _stored_bits(exact, layout)
    return exact + b"\0" if len(exact) % 2 else exact


def encapsulated(content: bytes, layout: Layout, transfer_syntax: str) -> bytes:
    """Return compressed frames, each cleaned, one fragment a frame, under an empty offset table.

    Guarantees:
      - Bits beyond the stored ones are those of the sign or zero. RLE frames are
        written so; others are decoded to see it, where they could hold more.

    Raises:
      Rejected: TRUNCATED for missing frames; CANNOT_DECODE for a frame that
        cannot be cleaned, or that uses more bits than it says.
    """
    from septum_client.deid import codestream  # noqa: PLC0415 - only compressed files need it

    pixels = layout.rows * layout.columns
    stored = _stored_bytes(layout) if transfer_syntax == RLELossless else None
    clean = [
        codestream.clean(frame, transfer_syntax, pixels=pixels, stored=stored)
        for frame in codestream.frames(content, layout.frames)
    ]
    if stored is None:
        for frame in clean:
            _require_stored_bits(frame, layout, transfer_syntax)
    return bytes(encapsulate(clean, has_bot=False))


def _stored_bytes(layout: Layout) -> list[bytes]:
    """Return what each byte of each RLE segment becomes, most significant first (PS3.5 G.2)."""
    width = layout.bits_allocated // 8
    if layout.signed and layout.high_bit // 8 != width - 1:
        # The sign of such a sample is in another segment than the bits that repeat it.
        raise Rejected(Quarantine.CANNOT_DECODE)
    planes = []
    for place in reversed(range(width)):
        every = np.arange(256, dtype=np.uint32) << np.uint32(8 * place)
        planes.append(
            (_kept_bits(every, layout) >> np.uint32(8 * place)).astype(np.uint8).tobytes()
        )
    return planes * layout.samples


def _require_stored_bits(frame: bytes, layout: Layout, transfer_syntax: str) -> None:
    """Pass when no sample of a clean frame is larger than the stored bits allow.

    A frame whose own precision is no higher is not decoded.
    """
    from septum_client.imaging import compressed, jpeg, jpeg2000  # noqa: PLC0415 - as above
    from septum_client.imaging.layout import Layout as Decoded  # noqa: PLC0415 - as above
    from septum_client.imaging.limits import LIMITS  # noqa: PLC0415 - as above
    from septum_client.imaging.parse import judged  # noqa: PLC0415 - as above

    tiled = transfer_syntax in JPEG2000TransferSyntaxes
    said = jpeg2000.header(frame) if tiled else jpeg.header(frame)
    if said.precision <= layout.bits_stored:
        return
    whole = Decoded(
        syntax=transfer_syntax,
        rows=layout.rows,
        columns=layout.columns,
        frames=1,
        samples=layout.samples,
        photometric=layout.photometric,
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_allocated,
        high_bit=layout.bits_allocated - 1,
        signed=layout.signed,
        planar=False,
    )
    with judged(Quarantine.CANNOT_DECODE):
        samples, _ = compressed.decode(frame, whole, LIMITS)
    low = -(1 << layout.bits_stored - 1) if layout.signed else 0
    if samples.min() < low or samples.max() >= low + (1 << layout.bits_stored):
        raise Rejected(Quarantine.CANNOT_DECODE)


def _stored_bits(content: bytes, layout: Layout) -> bytes:
    if layout.bits_stored == layout.bits_allocated:
        return content
    found = np.frombuffer(content, _WORDS[layout.bits_allocated]).astype(np.uint32)
    kept = _kept_bits(found, layout)
    if np.array_equal(kept, found):
        return content
    return kept.astype(_WORDS[layout.bits_allocated]).tobytes()


def _kept_bits(found: NDArray[np.uint32], layout: Layout) -> NDArray[np.uint32]:
    """Return the stored bits of samples, where they are, under their sign if they have one."""
    low = layout.high_bit + 1 - layout.bits_stored
    kept = found & np.uint32(((1 << layout.bits_stored) - 1) << low)
    if layout.signed:
        above = (1 << layout.bits_allocated) - (1 << layout.high_bit + 1)
        negative = found & np.uint32(1 << layout.high_bit) != 0
        kept |= np.where(negative, np.uint32(above), np.uint32(0))
    return kept
