import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless

from septum.errors import Quarantine
from septum_client import pseudonyms
from septum_client.consent.decisions import Declared
from septum_client.deid import engine as engines
from septum_client.deid.engine import Deidentified, Deidentifier, Refused
from septum_client.imaging.decode import stored_frames
from septum_client.rules import Intake
from septum_client.screening import ocr
from septum_client.screening.boxes import Box
from septum_client.screening.verdict import Decision

KEY = b"k" * 32
HEADER = Intake(burned_in_text="header", synthetic="include", faces="allow")
OCR = HEADER.model_copy(update={"burned_in_text": "ocr"})
NAME = "LINDQVIST ANNA"

needs_tesseract = pytest.mark.skipif(not ocr.available(), reason="tesseract is not installed")


def engine(rules=HEADER, **kwargs):
    return Deidentifier(key=KEY, rules=rules, **kwargs)


def bytes_of(ds):
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def pixels_of(done):
    return np.stack(list(stored_frames(done.dataset)))


def drawn(text=NAME, bits=np.uint16):
    y, x = np.mgrid[:200, :256] / 256 - 0.4
    grey = 110 * (x**2 / 0.16 + y**2 / 0.2 < 1) + np.random.default_rng(0).normal(10, 4, x.shape)
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    ImageDraw.Draw(image).text((20, 20), text, fill=255, font=ImageFont.load_default(18))
    return np.asarray(image).astype(bits)


def test_what_comes_out_parses_is_ours_and_keeps_every_pixel(dcm):
    values = dcm.image(5)
    done = engine()(bytes_of(dcm.header("Lindqvist", "1.2.3.77", values)))
    assert isinstance(done, Deidentified)
    again = pydicom.dcmread(io.BytesIO(done.content))
    assert again.PatientID == done.owner.patient == pseudonyms.pseudonym(KEY, "Lindqvist")
    assert again.SOPInstanceUID == done.owner.instance == pseudonyms.uid(KEY, "1.2.3.77")
    assert np.array_equal(pixels_of(done)[0], values)
    assert (done.owner.sex, done.owner.age_band, done.owner.linkage) == (1, 3, "")
    assert b"Lindqvist" not in done.content
    assert not done.reviewed


def test_characteristics_that_the_policy_does_not_keep_are_nowhere(dcm):
    rules = HEADER.model_copy(update={"patient_characteristics": False})
    done = engine(rules)(bytes_of(dcm.header()))
    assert (done.owner.sex, done.owner.age_band) == (0, 0)
    assert not {"PatientSex", "PatientAge"} & {e.keyword for e in done.dataset if e.value}


def test_a_linkage_is_made_only_where_a_simulation_asks(dcm):
    data = bytes_of(dcm.header())
    one, two = (engine(linkage_key=key)(data).owner.linkage for key in (KEY, None))
    assert (len(one), two) == (32, "")
    assert one == pseudonyms.linkage(KEY, "P1")


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm"])
def test_a_second_pass_changes_nothing(name):
    data = Path(get_testdata_file(name, download=False)).read_bytes()
    once = engine()(data)
    assert isinstance(once, Deidentified)
    twice = engine()(once.content)
    assert isinstance(twice, Deidentified), twice.code
    assert twice.owner == once.owner
    assert twice.content == once.content


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Quarantine.SECONDARY_CAPTURE),
        ({"BurnedInAnnotation": "YES"}, Quarantine.BURNED_IN_TEXT),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Quarantine.BURNED_IN_TEXT),
    ],
)
def test_what_a_rule_refuses_a_person_can_let_in_and_nobody_else(dcm, fields, code):
    ds = dcm.header(Modality="DX", **fields)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    data = bytes_of(ds)
    refused = engine()(data)
    assert isinstance(refused, Refused)
    assert refused.code is code
    name = refused.preview.name
    assert refused.owner.patient == pseudonyms.pseudonym(KEY, "P1")
    let_in = engine(decisions={name: Decision(verdict="accept")})(data)
    assert let_in.reviewed
    assert np.array_equal(pixels_of(let_in)[0], dcm.image())
    out = engine(decisions={name: Decision(verdict="reject")})(data)
    assert (out.code, out.preview) == (Quarantine.REVIEWED_OUT, None)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Quarantine.LOCALISER),
        ({"SyntheticData": "YES"}, Quarantine.SYNTHETIC),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, Quarantine.FACE),
    ],
)
def test_nobody_can_overrule_what_is_no_matter_of_looking(dcm, fields, code):
    rules = Intake(burned_in_text="header")
    data = bytes_of(dcm.header(**fields))
    refused = engine(rules)(data)
    assert (refused.code, refused.preview) == (code, None)
    name = engines.Deidentifier(key=KEY, rules=HEADER)(bytes_of(dcm.header()))
    seen = engine()._seen(name.dataset)
    decided = {seen.name: Decision(verdict="accept")}
    assert engine(rules, decisions=decided)(data).code is code


@needs_tesseract
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_persons_boxes_are_blanked_in_the_bytes_of_every_frame(dcm, photometric, compressed):
    values = drawn()
    frames = np.stack([values, values, values])
    if photometric == "MONOCHROME1":
        frames = 255 - frames
    ds = dcm.header(
        pixels=frames[0], NumberOfFrames=3, PhotometricInterpretation=photometric, Modality="DX"
    )
    ds.PixelData = frames.tobytes()
    if compressed:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    data = bytes_of(ds)
    refused = engine(OCR)(data)
    assert refused.code is Quarantine.BURNED_IN_TEXT
    box = Box(0, 0, 60, 256)
    # Three frames, two beside each other on the sheet.
    sheet = [box.moved(0, 0), box.moved(0, 256), box.moved(200, 0)]
    assert all(any(b.meet(part) == b for part in sheet) for b in refused.preview.boxes)
    decided = {refused.preview.name: Decision(verdict="blank", boxes=(box,))}
    done = engine(OCR, decisions=decided)(data)
    assert done.reviewed
    kept = pydicom.dcmread(io.BytesIO(done.content)).pixel_array
    dark = frames.max() if photometric == "MONOCHROME1" else frames.min()
    assert (kept[:, :60] == dark).all()
    assert np.array_equal(kept[:, 60:], frames[:, 60:])
    assert engine(OCR)(done.content).owner == done.owner


def test_an_ultrasound_is_cut_to_its_regions_in_the_bytes(dcm):
    values = np.random.default_rng(0).integers(1, 255, (64, 80)).astype(np.uint8)
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 69, 59
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.01
    ultrasound = "1.2.840.10008.5.1.4.1.1.6.1"
    ds = dcm.header(pixels=values, Modality="US", SOPClassUID=ultrasound)
    assert engine()(bytes_of(ds)).code is Quarantine.BURNED_IN_TEXT
    ds.SequenceOfUltrasoundRegions = Sequence([region])
    done = engine()(bytes_of(ds))
    assert isinstance(done, Deidentified), done.code
    kept = pydicom.dcmread(io.BytesIO(done.content)).pixel_array
    top, left = 20, 10
    assert kept.shape[0] <= 40
    assert kept.shape[1] <= 60
    assert np.array_equal(kept, values[top : top + kept.shape[0], left : left + kept.shape[1]])
    # The banner above is not in the file at all.
    assert values[:10].tobytes() not in done.content


def with_region():
    values = np.random.default_rng(0).integers(1, 255, (64, 80)).astype(np.uint8)
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 69, 59
    fields = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}
    return {"pixels": values, "SequenceOfUltrasoundRegions": Sequence([region])} | fields


def test_a_cut_ultrasound_counts_its_regions_from_the_new_corner_and_passes_again(dcm):
    done = engine()(bytes_of(dcm.header(**with_region())))
    kept = pydicom.dcmread(io.BytesIO(done.content))
    (region,) = kept.SequenceOfUltrasoundRegions
    sides = [region[f"RegionLocation{side}"].value for side in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    assert sides == [0, 0, kept.Columns - 1, kept.Rows - 1]
    again = engine()(done.content)
    assert isinstance(again, Deidentified), again.code
    assert again.content == done.content


def test_an_ultrasound_of_another_site_is_not_taken_for_our_own(dcm):
    done = engine()(bytes_of(dcm.header(**with_region())))
    ds = pydicom.dcmread(io.BytesIO(done.content))
    ds.PatientID = "P1"
    assert engine()(bytes_of(ds)).code is Quarantine.BURNED_IN_TEXT


def test_what_a_person_decided_holds_where_only_headers_are_judged(dcm):
    data = bytes_of(dcm.header())
    seen = engine()._seen(engine()(data).dataset)
    rejected = {seen.name: Decision(verdict="reject")}
    assert engine(HEADER, decisions=rejected)(data).code is Quarantine.REVIEWED_OUT
    blanked = {seen.name: Decision(verdict="blank", boxes=(Box(0, 0, 4, 24),))}
    done = engine(HEADER, decisions=blanked)(data)
    assert done.reviewed
    assert (pixels_of(done)[0][:4] == dcm.image().min()).all()


@pytest.mark.parametrize("count", [1, 5])
def test_clean_pixels_are_claimed_only_where_a_person_saw_every_frame(dcm, count):
    frames = np.stack([dcm.image(seed) for seed in range(count)])
    ds = dcm.header(pixels=frames[0], BurnedInAnnotation="YES", Modality="XA")
    ds.PixelData, ds.NumberOfFrames = frames.tobytes(), count
    data = bytes_of(ds)
    name = engine()(data).preview.name
    done = engine(decisions={name: Decision(verdict="accept")})(data)
    assert done.reviewed
    codes = {code.CodeValue for code in done.dataset.DeidentificationMethodCodeSequence}
    assert ("113101" in codes) == (count == 1)
    assert (done.dataset.BurnedInAnnotation == "NO") == (count == 1)


@needs_tesseract
def test_text_of_one_frame_of_a_loop_is_found(dcm):
    blank, title = drawn(""), drawn()
    frames = np.stack([blank, blank, title, *[blank] * 6])
    ds = dcm.header(pixels=blank, NumberOfFrames=9, Modality="XA")
    ds.PixelData = frames.tobytes()
    assert engine(OCR)(bytes_of(ds)).code is Quarantine.BURNED_IN_TEXT


def denying(dcm, **fields):
    item = Dataset()
    item.DistributionType, item.ConsentForDistributionFlag = "NAMED_PROTOCOL", "NO"
    return dcm.header(ConsentForClinicalTrialUseSequence=Sequence([item]), **fields)


def test_a_file_that_is_cut_short_still_denies_for_its_patient(dcm):
    found = engine()(bytes_of(denying(dcm))[:-9])
    assert found.code is Quarantine.TRUNCATED
    assert found.owner.declared == Declared.DENIED
    assert found.owner.patient == pseudonyms.pseudonym(KEY, "P1")


@pytest.mark.parametrize("blank", ["\u00a0", "\u200b", " \u2007\u2060 "])
def test_an_id_that_nobody_sees_is_no_patient(dcm, blank):
    found = engine()(bytes_of(dcm.header(blank, SpecificCharacterSet="ISO_IR 192")))
    assert (found.code, found.owner.patient) == (Quarantine.NO_PATIENT, "")


def test_a_pseudonym_under_another_key_is_nobody_whose_consent_could_be_found(dcm):
    ours = engine()(bytes_of(dcm.header())).content
    other = Deidentifier(key=b"x" * 32, rules=HEADER)
    assert other(ours).code is Quarantine.NO_PATIENT
    # A hospital may number its patients in hexadecimal.
    plain = bytes_of(dcm.header("0123456789abcdef" * 2))
    assert isinstance(other(plain), Deidentified)


@pytest.mark.parametrize("value", ["-1,0", "1\\2"])
def test_a_slope_that_is_no_number_is_not_left_out_in_silence(dcm, value):
    ds = dcm.header(RescaleIntercept="0")
    ds.add_new("RescaleSlope", "SH", value)
    raw = bytes_of(ds).replace(b"\x28\x00\x53\x10SH", b"\x28\x00\x53\x10DS")
    assert engine()(raw).code is Quarantine.CANNOT_DECODE


def test_padding_that_is_no_number_is_not_left_out_in_silence(dcm):
    ds = dcm.header()
    ds.add_new("PixelPaddingValue", "SH", "none")
    assert engine()(bytes_of(ds)).code is Quarantine.BAD_VALUES


def test_a_token_that_survives_ends_the_file(dcm, monkeypatch):
    monkeypatch.setattr(engines.proof, "survivors", lambda *_: {"name": 1})
    found = engine()(bytes_of(dcm.header()))
    assert found.code is Quarantine.IDENTIFIER_LEFT
    assert found.owner.patient


def test_a_broken_file_still_says_whose_it_was(dcm):
    data = bytes_of(dcm.header("Lindqvist", "1.2.3.77"))
    found = engine()(data[:-9])
    assert found.code is Quarantine.TRUNCATED
    assert found.owner.patient == pseudonyms.pseudonym(KEY, "Lindqvist")
    assert found.owner.instance == pseudonyms.uid(KEY, "1.2.3.77")


def test_only_the_lack_of_memory_is_raised(dcm, monkeypatch):
    data = bytes_of(dcm.header())

    def fault(error):
        def rebuild(*args, **kwargs):
            raise error

        monkeypatch.setattr(engines, "rebuild", rebuild)

    for error in (RuntimeError(NAME), RecursionError(NAME), SystemError(NAME)):
        fault(error)
        assert engine()(data).code is Quarantine.NOT_DICOM
    fault(MemoryError())
    with pytest.raises(MemoryError):
        engine()(data)


@pytest.fixture(scope="module")
def seeds():
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "SC_rgb_small_odd_jpeg.dcm")
    return [Path(get_testdata_file(name, download=False)).read_bytes() for name in names]


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, 2),
    cut=st.integers(0, 60_000),
    changes=st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=6))),
)
def test_no_bytes_make_the_engine_raise_warn_or_log(seeds, which, cut, changes):
    data = bytearray(seeds[which])
    for at, new in changes:
        data[at % len(data) : at % len(data) + len(new)] = new
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = engine()(bytes(data[: len(data) - cut % 4000]))
    finally:
        logging.getLogger().removeHandler(handler)
    assert isinstance(found, Deidentified | Refused)
    assert told == []
