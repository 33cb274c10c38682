"""Nothing that was planted is left, wherever it was planted and however the file is coded."""

import io
import shutil
import warnings
from pathlib import Path

import numpy as np
import planting
import planting_codestreams as streams
import pydicom
import pytest
from PIL import Image, ImageDraw
from planting import BIG, DEFLATED, EXPLICIT, IMPLICIT, Seeds
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames

from septum.errors import Quarantine
from septum_client.deid import codestream
from septum_client.deid.rebuild import Options, rebuild
from septum_client.imaging import parse
from septum_client.imaging.decode import stored_frames
from septum_client.reject import Rejected
from septum_client.screening import ocr

KEY = b"k" * 32
DX, CT = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
OPTIONS = [
    Options(dates="drop", patient_characteristics=False, pixels_checked=False, faces_removed=False),
    Options(dates="shift", patient_characteristics=True, pixels_checked=True, faces_removed=True),
]
# Other tests plant in the transfer syntax and around the pixels.
ABUSED = (set(planting.ESSENTIAL) | planting.VALUES) - {0x00020010, 0x7FE00010}
ABUSED -= {0x7FE00001, 0x7FE00002}
BUNDLED = [
    "CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm", "693_J2KI.dcm", "JPEG2000.dcm", "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm", "examples_overlay.dcm", "examples_palette.dcm",
    "examples_ybr_color.dcm", "examples_jpeg2k.dcm",
]  # fmt: skip


def phantom(syntax=EXPLICIT, *, sop_class=CT, modality="CT", dtype=np.uint16, **fields) -> Dataset:
    """Return a small image that any training would take."""
    pixels = streams.picture(dtype=dtype)
    ds = Dataset()
    bits = pixels.dtype.itemsize * 8
    values = {
        "SOPClassUID": sop_class, "SOPInstanceUID": "1.2.3.4.5", "StudyInstanceUID": "1.2.3.4.6",
        "SeriesInstanceUID": "1.2.3.4.7", "Modality": modality, "PatientID": "P1",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits,
        "BitsStored": min(bits, 12), "HighBit": min(bits, 12) - 1, "PixelRepresentation": 0,
        "PixelSpacing": [0.5, 0.5], "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "RescaleSlope": 1, "RescaleIntercept": -1024,
    } | fields  # fmt: skip
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    stored = pixels.byteswap() if syntax == BIG else pixels
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(EXPLICIT)
    if syntax in {uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless}:
        ds.compress(syntax)
        ds.SOPInstanceUID = "1.2.3.4.5"
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return ds


def bundled(name: str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(get_testdata_file(name, download=False))


def through(data: bytes, options: Options = OPTIONS[0]) -> bytes:
    """Return the de-identified file's bytes; a refusal is raised."""
    with parse.silent():
        clean = rebuild(parse.parse(data), key=KEY, options=options)
        out = io.BytesIO()
        pydicom.dcmwrite(out, clean, enforce_file_format=True)
    return out.getvalue()


def pixels_of(data: bytes) -> list[np.ndarray]:
    with parse.silent():
        return list(stored_frames(parse.parse(data)))


def test_what_is_planted_is_there_before_and_the_search_finds_it():
    # Without this, a planting that plants nothing would pass every test below.
    seeds = Seeds()
    data = planting.planted(phantom(IMPLICIT), seeds, every=9)
    present = {place for place, form in seeds.forms if form in data}
    absent = {place for place, _ in seeds.forms} - present
    # What names the patient is planted twice; the second replaces the first.
    assert all(p.startswith(("Patient", "SOPInstance", "DataSetTrailing")) for p in absent)
    assert len({place for place, _ in seeds.forms}) > 2_000
    leaky = pydicom.dcmread(io.BytesIO(through(data)))
    leaky.ImageComments = seeds.free_text("leaked").decode()
    out = io.BytesIO()
    leaky.save_as(out)
    assert planting.left(out.getvalue(), seeds) == ["leaked"]


@pytest.mark.parametrize("options", OPTIONS, ids=["strict", "every option"])
@pytest.mark.parametrize(
    "syntax",
    [EXPLICIT, IMPLICIT, BIG, DEFLATED, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless],
)
def test_a_token_in_every_attribute_of_the_dictionary_is_gone(syntax, options):
    seeds = Seeds()
    data = planting.planted(phantom(syntax), seeds)
    assert seeds.number > 30_000
    output = through(data, options)
    assert planting.left(output, seeds) == []
    (image,) = pixels_of(output)
    assert np.array_equal(image, streams.picture(dtype=np.uint16))


@pytest.mark.parametrize("name", BUNDLED)
def test_tokens_in_files_of_others_are_gone(name):
    seeds = Seeds()
    ds = bundled(name)
    data = planting.planted(ds, seeds, every=9)
    assert planting.left(through(data), seeds) == []


@pytest.mark.parametrize("modality", ["DX", "CR", "MG", "MR", "US", "NM", "PT", "XA"])
def test_tokens_in_an_image_of_any_modality_are_gone(modality):
    classes = {
        "DX": DX, "CR": "1.2.840.10008.5.1.4.1.1.1", "MG": "1.2.840.10008.5.1.4.1.1.1.2",
        "MR": "1.2.840.10008.5.1.4.1.1.4", "US": "1.2.840.10008.5.1.4.1.1.6.1",
        "NM": "1.2.840.10008.5.1.4.1.1.20", "PT": "1.2.840.10008.5.1.4.1.1.128",
        "XA": "1.2.840.10008.5.1.4.1.1.12.1",
    }  # fmt: skip
    seeds = Seeds()
    ds = phantom(sop_class=classes[modality], modality=modality)
    data = planting.planted(ds, seeds, every=2)
    for options in OPTIONS:
        assert planting.left(through(data, options), seeds) == []


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("tag", sorted(ABUSED))
def test_a_token_in_what_an_image_needs_is_refused_or_gone(tag, syntax):
    seeds = Seeds(number=1000)
    encoding = planting.encoding_of(syntax)
    vr = pydicom.datadict.dictionary_VR(tag).split(" or ")[0]
    values = [
        encoding.element(tag, v, seeds.value(f"{tag:08x} {v}", v, encoding.order))
        for v in sorted({vr.replace("SQ", "LO"), "LO"})
    ]
    if vr == "SQ":
        values.append(planting.sequence(seeds, encoding, tag, f"{tag:08x}"))
    for value in values:
        data = planting.planted(phantom(syntax), seeds, every=500, values=[(tag, value)])
        for options in OPTIONS:
            try:
                output = through(data, options)
            except Rejected:
                continue
            assert planting.left(output, seeds) == []


def test_tokens_in_functional_groups_beside_the_geometry_are_gone():
    seeds = Seeds()
    order, enc = "<", planting.Encoding()

    def number(tag, text):
        return enc.element(tag, "DS", text + b" " * (len(text) % 2))

    def tokens():
        return b"".join(
            enc.element(t, vr, seeds.value(f"functional group {t:08x}", vr, order))
            for t, vr in (
                (0x00181030, "LO"), (0x00189005, "SH"), (0x00189074, "DT"), (0x00209056, "SH"),
                (0x00209057, "UL"), (0x00209158, "LT"), (0x00290010, "LO"), (0x00291001, "UN"),
            )
        )  # fmt: skip

    def measures():
        return enc.sequence(
            0x00289110, number(0x00180050, b"2.5") + tokens() + number(0x00280030, b"0.5\\0.5")
        )

    def place(z):
        return enc.sequence(0x00209113, number(0x00200032, b"0\\0\\%d" % z) + tokens())

    def content():
        return enc.sequence(
            0x00209111, tokens() + planting.sequence(seeds, enc, 0x00089092, "in frame content")
        )

    shared = enc.sequence(
        0x52009229,
        enc.sequence(0x00209116, number(0x00200037, b"1\\0\\0\\0\\1\\0")) + measures() + tokens()
        + planting.sequence(seeds, enc, 0x00291040, "private group of all frames"),
    )  # fmt: skip
    per_frame = enc.sequence(
        0x52009230, *[content() + place(z) + tokens() for z in range(2)], undefined=True
    )
    ds = phantom(sop_class=ENHANCED_MR, modality="MR", NumberOfFrames=2)
    ds.PixelData = ds.PixelData * 2
    data = planting.planted(
        ds, seeds, every=7, values=[(0x52009229, shared), (0x52009230, per_frame)]
    )
    output = through(data)
    assert planting.left(output, seeds) == []
    clean = pydicom.dcmread(io.BytesIO(output))
    positions = [
        g.PlanePositionSequence[0].ImagePositionPatient[2]
        for g in clean.PerFrameFunctionalGroupsSequence
    ]
    assert positions == [0, 1]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Zoë"), ("ISO_IR 144", "Люкceмбypг^Анна"), ("ISO_IR 192", "王^小东"),
        ("GB18030", "王^小东"), ("ISO_IR 166", "สมชาย^ใจดี"), ("ISO_IR 126", "Διονυσιος^Νικος"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)  # fmt: skip
def test_a_name_in_any_script_is_gone(charset, name):
    ds = phantom(SpecificCharacterSet=charset, PatientID="P1")
    for keyword in ("PatientName", "ReferringPhysicianName", "OperatorsName"):
        setattr(ds, keyword, name)
    ds.StudyDescription = ds.ImageComments = ds.ProtocolName = name.split("=")[-1]
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    encodings = pydicom.charset.convert_encodings(charset)
    parts = [p for p in name.replace("=", "^").split("^") if p]
    coded = [pydicom.charset.encode_string(p, encodings) for p in parts]
    assert all(form in out.getvalue() for form in coded)
    output = through(out.getvalue())
    for part, form in zip(parts, coded, strict=True):
        for found in (form, part.encode(), part.encode("utf-16-le"), part.encode("utf-16-be")):
            assert found not in output


def test_text_in_the_bits_above_the_image_is_gone():
    ds = phantom()
    pixels = np.frombuffer(ds.PixelData, "<u2").copy()
    text = np.frombuffer(b"ZQ00001KX " * 100, np.uint8)
    nibbles = np.stack([text >> 4, text & 15], 1).ravel().astype(np.uint16)
    pixels[: len(nibbles)] |= nibbles << 12
    ds.PixelData = pixels.tobytes()
    seeds = Seeds(forms=[("the bits above", b"ZQ00001KX")])
    output = through(planting.planted(ds, seeds, every=500))
    assert planting.left(output, seeds) == []
    stored = np.frombuffer(pydicom.dcmread(io.BytesIO(output)).PixelData, "<u2")
    assert not (stored >> 12).any()


def test_bytes_after_the_last_pixel_are_gone():
    seeds, ds = Seeds(), phantom()
    ds.PixelData += seeds.text("after the last pixel").ljust(200, b" ")
    assert planting.left(through(planting.planted(ds, seeds, every=500)), seeds) == []


def test_bytes_after_the_data_set_are_refused_or_gone():
    seeds = Seeds()
    data = planting.planted(phantom(), seeds, every=500)
    for tail in (seeds.text("after the file") * 9, b"\0" * 64 + seeds.text("after zeros")):
        try:
            output = through(data + tail)
        except Rejected:
            continue
        assert planting.left(output, seeds) == []


def test_an_element_of_an_unknown_vr_is_refused_or_gone():
    seeds = Seeds()
    data = planting.planted(phantom(), seeds, every=500, values=[planting.with_unknown_vr(seeds)])
    try:
        output = through(data)
    except Rejected:
        return
    assert planting.left(output, seeds) == []


SYNTAXES = [
    streams.BASELINE, streams.LOSSLESS, streams.JPEG_LS, streams.JPEG_LS_NEAR,
    streams.JPEG_2000, streams.JPEG_2000_LOSSY, streams.RLE,
]  # fmt: skip


def _file_of(syntax: str, fragments: list[bytes], **change) -> bytes:
    name = {
        streams.LOSSLESS: "SC_rgb_jpeg_gdcm.dcm",
        streams.JPEG_LS: "MR_small_jpeg_ls_lossless.dcm",
        streams.JPEG_2000: "MR_small_jp2klossless.dcm",
        streams.JPEG_2000_LOSSY: "SC_rgb_gdcm_KY.dcm",
        streams.RLE: "MR_small_RLE.dcm",
    }.get(syntax)
    ds = bundled(name) if name else phantom(dtype=np.uint8)
    if not name:
        ds.BitsStored, ds.HighBit = 8, 7
        ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.PatientID = "P1"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CT, "1.2.3", "CT"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CT, "1.2.3"
    ds.PixelData = change.pop("encapsulated", None) or encapsulate(fragments)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_frame_gives_up_every_token_and_keeps_its_image(syntax):
    seeds = Seeds()
    (before,) = pixels_of(_file_of(syntax, [streams.frame_of(syntax)]))
    kept, left = 0, []
    for place, frame in streams.spiked(syntax, seeds):
        try:
            cleaned = codestream.clean(frame, syntax)
            output = through(_file_of(syntax, [frame]))
            (after,) = pixels_of(output)
        except Rejected:
            continue
        kept += 1
        (clean_frame,) = generate_frames(
            pydicom.dcmread(io.BytesIO(output)).PixelData, number_of_frames=1
        )
        for form in (form for at, form in seeds.forms if at == place):
            left += [place] * any(form in where for where in (cleaned, clean_frame, output))
        if place == "JFIF thumbnail" and before.ndim == 3:
            continue  # JFIF says that the components are YCbCr: another image, rightly
        assert np.array_equal(after, before), place
    assert left == []
    assert kept >= (2 if syntax == streams.RLE else 18)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_clean_frame_stays_as_it_is_and_cleaning_twice_is_cleaning_once(syntax):
    once = codestream.clean(streams.frame_of(syntax), syntax)
    assert codestream.clean(once, syntax) == once


@pytest.mark.parametrize("place", ["offset table", "extended offsets", "fragment", "split token"])
def test_tokens_around_the_frames_are_refused_or_gone(place):
    token, frame = b"ZQ00001KX ", streams.frame_of(streams.JPEG_2000)
    item = b"\xfe\xff\x00\xe0"

    def items(*parts: bytes) -> bytes:
        padded = [p + b"\0" * (len(p) % 2) for p in parts]
        return b"".join(item + len(p).to_bytes(4, "little") + p for p in padded)

    changes = {
        "offset table": {"encapsulated": items(token * 4, frame)},
        "extended offsets": {
            "ExtendedOffsetTable": token * 4, "ExtendedOffsetTableLengths": token * 4
        },
        "fragment": {"encapsulated": items(b"", frame, token * 4)},
        "split token": {"encapsulated": items(b"", frame + b"\xff\xd9 ZQ0000", b"1KX ")},
    }  # fmt: skip
    data = _file_of(streams.JPEG_2000, [frame], **changes[place])
    try:
        output = through(data)
    except Rejected:
        return
    assert token.strip() not in output
    assert b"ZQ0000" not in output


@pytest.mark.parametrize("name", ["reportsi.dcm", "test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm"])
def test_what_is_no_image_is_refused(name):
    with pytest.raises(Rejected) as refused:
        through(Path(get_testdata_file(name, download=False)).read_bytes())
    assert refused.value.code in {Quarantine.NOT_AN_IMAGE, Quarantine.NO_PIXELS}


def test_an_encapsulated_pdf_is_refused_even_with_pixels():
    ds = phantom(sop_class="1.2.840.10008.5.1.4.1.1.104.1", modality="DOC")
    ds.EncapsulatedDocument = b"%PDF-1.4 ZQ00001KX"
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    with pytest.raises(Rejected) as refused:
        through(planting.planted(ds, Seeds(), every=500))
    assert refused.value.code is Quarantine.NOT_AN_IMAGE


def test_an_icon_and_its_palette_are_gone():
    seeds, ds, icon = Seeds(), phantom(), Dataset()
    icon.Rows = icon.Columns = 8
    icon.PixelData = (seeds.text("icon") * 8)[:64]
    icon["PixelData"].VR = "OB"
    ds.IconImageSequence = [icon]
    parts = planting.elements_of(ds, EXPLICIT)
    data = planting.planted(ds, seeds, every=500, values=[(0x00880200, parts[0x00880200])])
    assert data.count(b"ZQ00001KX") > 5
    assert planting.left(through(data), seeds) == []


@pytest.mark.skipif(not shutil.which("tesseract"), reason="Tesseract is not installed")
def test_a_name_drawn_into_the_pixels_is_seen():
    picture = Image.fromarray(streams.picture(side=256) // 4)
    ImageDraw.Draw(picture).text((20, 30), "DOE JOHN 1970", fill=255, font_size=24)
    assert ocr.find_text(np.asarray(picture))
    # The second half of the truth: a picture without text is not full of it.
    assert not ocr.find_text(streams.picture(side=256) // 4)
