"""Plants identifiers that nobody else uses, in every place a DICOM file can hold one.

Each token occurs once in the planted file and in no other file, so a token in
an output is a survivor, whatever the tool did to the rest. Tokens are ASCII
without spaces: every character repertoire that DICOM allows writes them the
same way.
"""

import random
import tomllib
from dataclasses import dataclass, field
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

PLACES = tomllib.loads((Path(__file__).parent / "places.toml").read_text(encoding="utf-8"))
SEARCHED_PREFIX = "QX"

_CODESTREAMS = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
_LETTERS = "BCDFGHJKLMNPRSTVWXZ"
_JPEG_COM, _J2K_COM = b"\xff\xfe", b"\xff\x64"


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A file with identifiers in it.

    Args:
      data: The file.
      tokens: What was planted, by class; each is in ``data`` as searched.
    """

    data: bytes = field(repr=False)
    tokens: dict[str, tuple[bytes, ...]] = field(repr=False)


class Seeds:
    """Makes tokens for each VR and remembers them by class."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a benchmark repeats itself
        self._days: set[str] = set()
        self.tokens: dict[str, list[str]] = {}

    def word(self, kind: str) -> str:
        """Return a new word of ten capitals and remember it."""
        text = SEARCHED_PREFIX + "".join(self._random.choices(_LETTERS, k=8))
        return self._keep(kind, text)

    def value(self, kind: str, vr: str) -> str:
        """Return a new value that the VR allows (PS3.5 6.2), all of it searched for."""
        r = self._random
        # Weeks apart: most shifts by days then make none of the other planted dates.
        day = (date(1902, 1, 1) + timedelta(days=7 * r.randrange(5000))).strftime("%Y%m%d")
        if day in self._days:
            return self.value(kind, vr)
        clock = f"{r.randrange(24):02}{r.randrange(60):02}{r.randrange(60):02}"
        clock += f".{r.randrange(10**6):06}"
        if vr == "PN":
            groups = ("^".join(self.word(kind) for _ in range(2)) for _ in range(3))
            return "=".join(groups)
        if vr in {"DA", "TM", "DT"}:
            self._days.add(day)
            return self._keep(kind, {"DA": day, "TM": clock, "DT": day + clock}[vr])
        if vr == "UI":
            return self._keep(kind, f"1.2.826.0.1.3680043.10.{r.randrange(10**29, 10**30)}")
        if vr in {"IS", "DS"}:
            return self._keep(kind, str(r.randrange(10**8, 2 * 10**9)))
        if vr in {"LT", "ST", "UT"}:
            return f"seen by {self.word(kind)} about {self.word(kind)} on the ward"
        return self.word(kind)

    def _keep(self, kind: str, text: str) -> str:
        self.tokens.setdefault(kind, []).append(text)
        return text


def plant(data: bytes, *, seed: int) -> Planted:
    """Return a copy of a DICOM file with identifiers in it.

    The image is untouched: planting adds attributes, replaces those that name
    people, and adds comment segments to compressed frames.

    Raises:
      Exception: Whatever pydicom raises for a file that it cannot read or write.
    """
    ds = pydicom.dcmread(BytesIO(data))
    seeds = Seeds(seed)
    for kind, keywords in PLACES["top"].items():
        for keyword in keywords.split():
            _set(ds, keyword, seeds.value(kind, dictionary_VR(keyword)))
    _plant_sequences(ds, seeds)
    _plant_private(ds, seeds)
    _plant_objects(ds, seeds)
    _plant_frames(ds, seeds)
    _plant_meta(ds, seeds)
    out = BytesIO()
    ds.save_as(out)
    written = out.getvalue()
    found = searchable(written)
    kept = {
        kind: tuple(token for text in texts if (token := text.encode()) in found)
        for kind, texts in seeds.tokens.items()
    }
    return Planted(data=written, tokens=kept)


def searchable(data: bytes) -> bytes:
    """Return the file's bytes, and behind them the data set inflated where it is deflated."""
    ds = pydicom.dcmread(BytesIO(data), force=True, specific_tags=["TransferSyntaxUID"])
    if ds.file_meta.get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
        return data
    whole = pydicom.dcmread(BytesIO(data))
    whole.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    plain = BytesIO()
    whole.save_as(plain)
    return data + plain.getvalue()


def _set(ds: Dataset, keyword: str, value: str) -> None:
    setattr(ds, keyword, value)


def _plant_sequences(ds: FileDataset, seeds: Seeds) -> None:
    for kind in ("listed SQ", "unlisted SQ"):
        for keyword in PLACES["sequences"][kind].split():
            functional = keyword.endswith("FunctionalGroupsSequence")
            if functional and keyword not in ds:
                continue  # a classic image has none
            item = ds[keyword].value[0] if ds.get(keyword) else Dataset()
            inner = Dataset()
            for target in (item, inner):
                for name in PLACES["sequences"]["block"].split():
                    _set(target, name, seeds.value(kind, dictionary_VR(name)))
            inner.CodeMeaning = seeds.word(kind)
            item.ReferencedSeriesSequence = [inner]
            if not ds.get(keyword):
                setattr(ds, keyword, [item])
    text, person = Dataset(), Dataset()
    text.ValueType, text.TextValue = "TEXT", f"impression: {seeds.word('SR text')} is well"
    person.ValueType, person.PersonName = "PNAME", seeds.word("SR text")
    ds.ContentSequence = [text, person]


def _plant_private(ds: FileDataset, seeds: Seeds) -> None:
    for group in (0x0009, 0x0029):
        block = ds.private_block(group, f"SEPTUM {seeds.word('private')}", create=True)
        block.add_new(0x01, "LO", seeds.word("private"))
        block.add_new(0x02, "UN", seeds.word("private").encode())
        block.add_new(0x03, "PN", f"{seeds.word('private')}^{seeds.word('private')}")
        item = Dataset()
        _set(item, "PatientName", seeds.value("private", "PN"))
        block.add_new(0x04, "SQ", [item])


def _plant_objects(ds: FileDataset, seeds: Seeds) -> None:
    def raw(kind: str) -> bytes:
        return b"\0\1" + seeds.word(kind).encode() + b"\0\0"

    kind = "overlay, curve"
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 16)
    ds.add_new(0x60000022, "LO", seeds.word(kind))
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60001500, "LO", seeds.word(kind))
    ds.add_new(0x60003000, "OB", raw(kind) + b"\0\0")
    ds.add_new(0x60004000, "LT", seeds.word(kind))
    ds.add_new(0x50000022, "LO", seeds.word(kind))
    ds.add_new(0x50003000, "OB", raw(kind))
    ds.EncapsulatedDocument = b"%PDF-1.4 (" + seeds.word("PDF, ICC").encode() + b") %%EOF "
    ds.ICCProfile = b"\0\0\0\x20desc" + raw("PDF, ICC")
    ds.DataSetTrailingPadding = raw("preamble, padding")
    ds.preamble = raw("preamble, padding").ljust(128, b"\0")


def _plant_frames(ds: FileDataset, seeds: Seeds) -> None:
    syntax = ds.file_meta.TransferSyntaxUID
    if "PixelData" not in ds or syntax not in _CODESTREAMS:
        return
    count = int(ds.get("NumberOfFrames") or 1)
    frames = generate_frames(ds.PixelData, number_of_frames=count)
    marked = [_with_comment(frame, syntax, seeds) for frame in frames]
    ds.PixelData = encapsulate(marked)
    ds["PixelData"].is_undefined_length = True


def _with_comment(frame: bytes, syntax: str, seeds: Seeds) -> bytes:
    """Add a comment segment (T.81 B.2.4.5, T.87 C.2.3.1, T.800 A.9.2); the image stays."""
    jpeg2000 = syntax in JPEG2000TransferSyntaxes
    if not frame.startswith(b"\xff\x4f\xff\x51" if jpeg2000 else b"\xff\xd8"):
        return frame  # boxed or damaged: left alone
    said = b"exported for " + seeds.word("codestream").encode()
    if jpeg2000:
        at = 4 + int.from_bytes(frame[4:6], "big")  # behind SIZ, which must come first
        segment = _J2K_COM + (len(said) + 4).to_bytes(2, "big") + b"\0\1" + said
    else:
        at, segment = 2, _JPEG_COM + (len(said) + 2).to_bytes(2, "big") + said
    return frame[:at] + segment + frame[at:]


def _plant_meta(ds: FileDataset, seeds: Seeds) -> None:
    for keyword in (
        "SourceApplicationEntityTitle",
        "SendingApplicationEntityTitle",
        "ReceivingApplicationEntityTitle",
        "ImplementationVersionName",
    ):
        _set(ds.file_meta, keyword, seeds.word("file meta"))
    ds.file_meta.PrivateInformationCreatorUID = seeds.value("file meta", "UI")
    ds.file_meta.PrivateInformation = seeds.word("file meta").encode()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
