"""Segmentation objects of another writer, and hostile ones."""

from contextlib import suppress

import highdicom
import numpy as np
import pytest
from highdicom.sr.coding import CodedConcept
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from septum_client.masks import finding, objects
from septum_client.masks.segments import Segments
from septum_client.pseudonyms import uid
from septum_client.reject import Rejected

KEY = bytes(range(32))
CT = "1.2.840.10008.5.1.4.1.1.2"
SEGMENTS = Segments.parse(b"class,scheme,code\nlung,SCT,39607008\n", ("lung",))


def images(dcm, count=3):
    """Return a CT series with all that another library asks of it."""
    found = []
    for n in range(count):
        ds = dcm.header(
            "P0", f"1.8.{n + 1}", dcm.image(n), SOPClassUID=CT, Modality="CT",
            PatientName="A^B", PatientBirthDate="", StudyDate="", StudyTime="", StudyID="",
            AccessionNumber="", ReferringPhysicianName="", StudyInstanceUID="1.5",
            SeriesInstanceUID="1.6", FrameOfReferenceUID="1.7", InstanceNumber=n + 1,
            ImagePositionPatient=[0, 0, 2.0 * n], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1], SliceThickness=2, PositionReferenceIndicator="",
        )  # fmt: skip
        found.append(ds)
    return found


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_what_an_independent_writer_writes_is_read(tmp_path, dcm, kind):
    sources = images(dcm)
    masks = np.random.default_rng(0).random((3, 24, 24)) < 0.4
    masks[1] = False
    lung = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Left lung",
        segmented_property_category=CodedConcept("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=CodedConcept("39607008", "SCT", "Lung"),
        algorithm_type="MANUAL",
    )
    written = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=masks.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=[lung],
        series_instance_uid="2.6",
        series_number=2,
        sop_instance_uid="2.8",
        instance_number=1,
        manufacturer="M",
        manufacturer_model_name="N",
        software_versions="1",
        device_serial_number="1",
    )
    path = tmp_path / "seg.dcm"
    written.save_as(path)
    data = path.read_bytes()
    assert objects.is_one(data)
    found = objects.read(data, key=KEY, segments=SEGMENTS)
    assert found.images == {uid(KEY, f"1.8.{n}") for n in (1, 2, 3)}
    assert found.frame_of_reference == uid(KEY, "1.7")
    seen = {frame.images[0][0]: frame for frame in found.frames if frame.images}
    for n in (0, 2):
        frame = seen[uid(KEY, f"1.8.{n + 1}")]
        assert np.array_equal(frame.classes, masks[n])
        assert frame.plane.position_mm == (0, 0, 2.0 * n)
    assert "Left lung" not in repr(found)


def test_an_image_is_no_segmentation(dcm, tmp_path):
    path = dcm.write(tmp_path / "image", patient="P0")
    assert not objects.is_one(path.read_bytes())
    assert not objects.is_one(b"")
    assert not objects.is_one(b"PK\x03\x04" * 30)


def test_what_is_kept_of_an_object_names_nobody(tmp_path, seg):
    path = seg.write(
        tmp_path / "seg", np.ones((1, 24, 24)), [seg.frame(1, ["1.2.3.4.55555"])],
        patient="MRN7654321", ContentDescription="drawn by Abernathy",
    )  # fmt: skip
    said, content = finding.read("dicom", path.read_bytes(), key=KEY, segments=SEGMENTS)
    for secret in ("MRN7654321", "1.2.3.4.55555", "Abernathy", "Lung"):
        assert secret.encode() not in content
        assert secret not in str(said)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_broken_bytes_end_as_a_code_and_as_nothing_else(tmp_path, seg, data):
    path = tmp_path / "seg"
    if not path.exists():
        frames = [seg.frame(1, ["1.1"], position=(0, 0, 0)), seg.frame(1, [("1.1", 2)])]
        seg.write(path, np.ones((2, 24, 24)), frames, listed=["1.1"])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(132, len(content)))]
    objects.is_one(bytes(content))
    with suppress(Rejected):
        said, _ = finding.read("dicom", bytes(content), key=KEY, segments=SEGMENTS)
        assert set(said) == {"images", "reference", "digest"}
