"""A MIDI-B style answer key: half of its ten actions punish removing too much.

The actions are those of the MIDI-B challenge of 2024 (`tag_retained`, `text_notnull`,
`text_retained`, `text_removed`, `date_shifted`, `uid_changed`, `uid_consistent`,
`patid_consistent`, `pixels_retained`, `pixels_hidden`). What must stay is what
training and reading an image need; each row names the attribute and its reason is
the module of PS3.3 in the comment above it.
"""

import datetime as dt
import io
import warnings

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames

from septum_client.deid.rebuild import Options, rebuild
from septum_client.imaging import parse
from septum_client.imaging.decode import stored_frames
from septum_client.screening import rules

KEY = b"k" * 32
COLOURS = ("Red", "Green", "Blue")
OPTIONS = Options(
    dates="shift", patient_characteristics=True, pixels_checked=False, faces_removed=False
)


def picture(rows=32, columns=48, frames=1, samples=1, dtype="<u2", high=4096) -> np.ndarray:
    shape = (frames, rows, columns, samples)
    return np.random.default_rng(5).integers(0, high, shape).astype(dtype)


def code(value, scheme, meaning) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def item(**fields) -> Dataset:
    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def scan(pixels: np.ndarray, **fields) -> Dataset:
    """Return an image of one patient, with what a hospital writes into it."""
    frames, rows, columns, samples = pixels.shape
    bits = pixels.dtype.itemsize * 8
    values = {
        "SOPInstanceUID": "1.2.826.0.1.7.1", "StudyInstanceUID": "1.2.826.0.1.7.2",
        "SeriesInstanceUID": "1.2.826.0.1.7.3", "FrameOfReferenceUID": "1.2.826.0.1.7.4",
        "PatientID": "MRN0047811", "PatientName": "Vandermeulen^Roswitha",
        "PatientBirthDate": "19530714", "PatientSex": "F", "PatientAge": "067Y",
        "StudyDate": "20210305", "SeriesDate": "20210305", "AcquisitionDate": "20210307",
        "StudyTime": "101500", "SeriesTime": "101500",
        "AcquisitionTime": "235959", "AccessionNumber": "A7731190", "InstitutionName": "Oberwalden",
        "ReferringPhysicianName": "Ostrowski^J", "StationName": "CTOW7",
        "StudyDescription": "suspected fracture after fall", "DeviceSerialNumber": "SN4471X",
        "ImageComments": "seen by Ostrowski on the ward", "ImageType": ["ORIGINAL", "PRIMARY"],
        "Rows": rows, "Columns": columns, "SamplesPerPixel": samples, "BitsAllocated": bits,
        "BitsStored": 12 if bits == 16 else 8, "HighBit": 11 if bits == 16 else 7,
        "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
        "InstanceNumber": "7", "SeriesNumber": "3", "LossyImageCompression": "00",
        "PixelData": pixels.tobytes(),
    } | fields  # fmt: skip
    ds = Dataset()
    if frames > 1:
        ds.NumberOfFrames = frames
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds["PixelData"].VR = "OW" if bits == 16 else "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return ds


def ct() -> Dataset:
    return scan(
        picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], BodyPartExamined="CHEST",
        Manufacturer="SIEMENS", PatientPosition="HFS", SliceThickness="1.25", KVP="120",
        XRayTubeCurrent="200", ExposureTime="500", Exposure="100", ConvolutionKernel="B30f",
        GantryDetectorTilt="0", TableHeight="150", ReconstructionDiameter="350",
        PixelSpacing=["0.683594", "0.683594"], SpacingBetweenSlices="1.25",
        ImagePositionPatient=["-174.658", "-174.5", "-38.25"],
        ImageOrientationPatient=["1", "0", "0", "0", "1", "0"], SliceLocation="-38.25",
        RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU", WindowCenter=["40", "-600"],
        WindowWidth=["400", "1500"], PixelPaddingValue=0, PositionReferenceIndicator="SN",
        AcquisitionNumber="2",
    )  # fmt: skip


def dx() -> Dataset:
    return scan(
        picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", Modality="DX",
        BodyPartExamined="CHEST", ViewPosition="PA", PatientOrientation=["L", "F"],
        ImageLaterality="U", PresentationIntentType="FOR PRESENTATION", KVP="125",
        ExposureInuAs="1500", DistanceSourceToDetector="1800",
        ImagerPixelSpacing=["0.143", "0.143"],
        PhotometricInterpretation="MONOCHROME1", PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=-1, RescaleSlope="1", RescaleIntercept="0",
        PresentationLUTShape="INVERSE", WindowCenter="2048", WindowWidth="4096",
        VOILUTFunction="SIGMOID", DetectorType="SCINTILLATOR", Grid="FOCUSED",
        AnatomicRegionSequence=[code("51185008", "SCT", "Chest")],
    )  # fmt: skip


def mg() -> Dataset:
    return scan(
        picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2", Modality="MG",
        BodyPartExamined="BREAST", ViewPosition="MLO", ImageLaterality="L",
        PresentationIntentType="FOR PROCESSING", KVP="28", BodyPartThickness="52",
        CompressionForce="110", AnodeTargetMaterial="MOLYBDENUM", FilterMaterial="RHODIUM",
        ImagerPixelSpacing=["0.07", "0.07"], EstimatedRadiographicMagnificationFactor="1",
        PatientOrientation=["A", "FR"], OrganExposed="BREAST", PresentationLUTShape="IDENTITY",
        ViewCodeSequence=[code("399368009", "SCT", "medio-lateral oblique")],
    )  # fmt: skip


def us() -> Dataset:
    region = item(
        RegionSpatialFormat=1, RegionDataType=1, RegionFlags=0, RegionLocationMinX0=2,
        RegionLocationMinY0=3, RegionLocationMaxX1=40, RegionLocationMaxY1=30,
        PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.02,
        PhysicalDeltaY=0.02,
    )  # fmt: skip
    return scan(
        picture(samples=3, dtype=np.uint8, high=256),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", Modality="US",
        PhotometricInterpretation="RGB", PlanarConfiguration=0,
        SequenceOfUltrasoundRegions=[region],
    )  # fmt: skip


def mr_enhanced() -> Dataset:
    frames = 3
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=["0.9", "0.9"], SliceThickness="3")],
        PlaneOrientationSequence=[item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])],
        MRTimingAndRelatedParametersSequence=[
            item(RepetitionTime="2000", FlipAngle="90", EchoTrainLength="1")
        ],
    )
    per_frame = [
        item(
            FrameContentSequence=[
                item(StackID="1", InStackPositionNumber=n + 1, DimensionIndexValues=[1, n + 1])
            ],
            PlanePositionSequence=[item(ImagePositionPatient=["0", "0", str(3.5 * n)])],
            MREchoSequence=[item(EffectiveEchoTime=80.5)],
            PixelValueTransformationSequence=[
                item(RescaleSlope=str(n + 1), RescaleIntercept="0", RescaleType="US")
            ],
            FrameVOILUTSequence=[item(WindowCenter="500", WindowWidth="1000")],
        )
        for n in range(frames)
    ]
    return scan(
        picture(frames=frames), SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", Modality="MR",
        MagneticFieldStrength="3", AcquisitionContrast="T2", BodyPartExamined="HEAD",
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame,
    )  # fmt: skip


def mr() -> Dataset:
    return scan(
        picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR",
        ScanningSequence="SE", SequenceVariant="SK", ScanOptions="", MRAcquisitionType="2D",
        RepetitionTime="500", EchoTime="15", EchoNumbers="1", EchoTrainLength="1", FlipAngle="90",
        InversionTime="150", MagneticFieldStrength="1.5", ImagingFrequency="63.87",
        NumberOfAverages="2", PixelBandwidth="130", PercentSampling="100", SliceThickness="5",
        SpacingBetweenSlices="6", PixelSpacing=["0.5", "0.5"], BodyPartExamined="KNEE",
        Laterality="L", PatientPosition="FFS", ImagePositionPatient=["1", "2", "3"],
        ImageOrientationPatient=["0", "1", "0", "0", "0", "-1"], WindowCenter="300",
        WindowWidth="600", LargestImagePixelValue=4095, SmallestImagePixelValue=0,
    )  # fmt: skip


def palette() -> Dataset:
    table = np.arange(256, dtype="<u2") * 257
    return scan(
        picture(dtype=np.uint8, high=256), SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1",
        Modality="US", PhotometricInterpretation="PALETTE COLOR",
        **{f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in COLOURS},
        **{f"{c}PaletteColorLookupTableData": table.tobytes() for c in COLOURS},
    )  # fmt: skip


def cr_with_tables() -> Dataset:
    modality = item(
        LUTDescriptor=[4096, 0, 16], ModalityLUTType="OD",
        LUTData=np.arange(4096, dtype="<u2").tobytes(),
    )  # fmt: skip
    modality.add_new(0x00283002, "US", [4096, 0, 16])
    modality["LUTData"].VR = "OW"
    voi = item(LUTData=np.arange(4096, dtype="<u2")[::-1].tobytes())
    voi.add_new(0x00283002, "US", [4096, 0, 16])
    voi["LUTData"].VR = "OW"
    return scan(
        picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR",
        ModalityLUTSequence=[modality], VOILUTSequence=[voi], BodyPartExamined="HAND",
        ViewPosition="PA", PixelSpacing=["0.1", "0.1"],
    )  # fmt: skip


MAKERS = (ct, dx, mg, us, mr, mr_enhanced, palette, cr_with_tables)


def deidentified(ds: Dataset, options: Options = OPTIONS) -> Dataset:
    raw, out = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(raw, enforce_file_format=True)
    with parse.silent():
        clean = rebuild(parse.parse(raw.getvalue()), key=KEY, options=options)
        pydicom.dcmwrite(out, clean, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(out.getvalue()))


# Carried, but not as it was.
CHANGED = {
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "PatientName", "PatientBirthDate", "PatientAge", "StudyDate", "SeriesDate", "AcquisitionDate",
    "StudyTime", "SeriesTime", "AcquisitionTime", "AccessionNumber",
    "InstitutionName", "ReferringPhysicianName", "StationName", "StudyDescription",
    "DeviceSerialNumber", "ImageComments", "PositionReferenceIndicator",
    "ScanOptions", "PixelData",
}  # fmt: skip
# Left out whole: a display curve whose data are free bytes, and which training does not read.
LEFT_OUT = {"VOILUTSequence"}


def leaves(ds: Dataset, path: tuple = ()):
    """Yield ``(path, value)`` of every attribute, at any depth."""
    for element in ds:
        here = (*path, element.keyword)
        if element.VR == "SQ":
            for n, entry in enumerate(element.value):
                yield from leaves(entry, (*here, n))
        else:
            yield here, element.value


def at(ds, path):
    for step in path:
        if isinstance(step, str) and step not in ds:
            return None
        ds = ds[step] if isinstance(step, int) else ds[step].value
    return ds


@pytest.mark.parametrize("make", MAKERS)
def test_tag_retained_and_text_retained(make):
    # Every attribute of the scan that is not a person's stays, with its value.
    ds = make()
    clean = deidentified(ds)
    lost = [
        path for path, value in leaves(ds)
        if path[-1] not in CHANGED and path[0] not in LEFT_OUT and at(clean, path) != value
    ]  # fmt: skip
    assert lost == []


def test_a_voi_table_is_left_out_and_the_modality_table_stays():
    clean = deidentified(cr_with_tables())
    assert "VOILUTSequence" not in clean
    assert clean.ModalityLUTSequence[0].LUTData == np.arange(4096, dtype="<u2").tobytes()


@pytest.mark.parametrize("make", MAKERS)
def test_text_notnull(make):
    # Type 1 of the patient, study and image modules (PS3.3 C.7), whatever the modality.
    clean = deidentified(make())
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
                    "Modality", "PatientID", "Rows", "Columns", "BitsAllocated", "ImageType",
                    "PatientIdentityRemoved", "DeidentificationMethod"):  # fmt: skip
        assert not clean[keyword].is_empty
    assert clean.PatientIdentityRemoved == "YES"
    assert "113100" in [c.CodeValue for c in clean.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize("make", MAKERS)
def test_text_removed(make):
    everything = " ".join(str(value) for _, value in leaves(deidentified(make()))).upper()
    tokens = "MRN0047811 VANDERMEULEN ROSWITHA 19530714 A7731190 OBERWALDEN OSTROWSKI CTOW7 "
    for token in (tokens + "FRACTURE SN4471X WARD 1.2.826.0.1.7").split():
        assert token not in everything


@pytest.mark.parametrize("make", MAKERS)
def test_date_shifted(make):
    # Moved, all by the same time, so that what happened two days later still does.
    def moments(ds):
        return [
            dt.datetime.fromisoformat(f"{ds[f'{k}Date'].value} {str(ds[f'{k}Time'].value)[:6]}")
            for k in ("Study", "Series", "Acquisition")
        ]

    ds, clean = make(), deidentified(make())
    moved = {b - a for a, b in zip(moments(ds), moments(clean), strict=True)}
    assert len(moved) == 1
    assert abs(next(iter(moved))) > dt.timedelta(days=1)
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"


@pytest.mark.parametrize("make", MAKERS)
def test_dates_are_gone_without_the_option(make):
    options = Options(
        dates="drop", patient_characteristics=True, pixels_checked=False, faces_removed=False
    )
    clean = deidentified(make(), options)
    assert not clean.get("StudyDate")
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"


@pytest.mark.parametrize("make", MAKERS)
def test_uid_changed_and_uid_consistent(make):
    ds, clean, other = make(), deidentified(make()), make()
    other.SOPInstanceUID = "1.2.826.0.1.7.99"
    second = deidentified(other)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert clean[keyword].value != ds[keyword].value
        assert uid.UID(clean[keyword].value).is_valid
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    assert second.SeriesInstanceUID == clean.SeriesInstanceUID
    assert second.FrameOfReferenceUID == clean.FrameOfReferenceUID
    assert second.SOPInstanceUID != clean.SOPInstanceUID
    assert len({clean.SOPInstanceUID, clean.StudyInstanceUID, clean.SeriesInstanceUID}) == 3


@pytest.mark.parametrize("make", MAKERS)
def test_patid_consistent(make):
    clean, same, other = deidentified(make()), make(), make()
    same.SOPInstanceUID, same.StudyInstanceUID = "1.2.3.9", "1.2.3.8"
    other.PatientID = "MRN0047812"
    assert clean.PatientID == deidentified(same).PatientID
    assert clean.PatientID != deidentified(other).PatientID


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "syntax",
    [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless],
)
def test_pixels_retained(make, syntax):
    ds = make()
    before = list(stored_frames(ds)) if ds.SamplesPerPixel == 1 else None
    raw = ds.PixelData
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
        raw = list(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1))))
    clean = deidentified(ds)
    after = list(stored_frames(clean))
    if before is not None:
        assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    elif syntax.is_compressed:
        kept = generate_frames(clean.PixelData, number_of_frames=len(after))
        assert [len(a) for a in after] == [len(a) for a in stored_frames(ds)]
        assert all(np.array_equal(a, b) for a, b in zip(after, stored_frames(ds), strict=True))
        assert len(list(kept)) == len(raw)
    else:
        assert clean.PixelData == raw


def test_pixels_hidden():
    # Burned-in text is not for the header engine: the file is stopped, cropped or queued.
    ds = us()
    ds.BurnedInAnnotation = "YES"
    ruling = rules.judge(ds, synthetic="count", faces="refuse")
    assert ruling.code is not None or ruling.keep
    captured = ct()
    captured.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    assert rules.judge(captured, synthetic="count", faces="refuse").code is not None


def test_age_and_sex_stay_with_the_option_only_and_age_in_bands():
    clean = deidentified(ct())
    assert clean.PatientSex == "F"
    assert clean.PatientAge
    ages = set()
    for age in ("061Y", "064Y", "094Y", "103Y"):
        ds = ct()
        ds.PatientAge = age
        ages.add(deidentified(ds).get("PatientAge"))
    assert len(ages) < 4
    assert "103Y" not in ages
    strict = Options(
        dates="drop", patient_characteristics=False, pixels_checked=False, faces_removed=False
    )
    bare = deidentified(ct(), strict)
    assert not bare.get("PatientSex")
    assert not bare.get("PatientAge")
