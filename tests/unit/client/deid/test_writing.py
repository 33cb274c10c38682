"""The fast writer and pydicom's are one."""

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file

from septum_client.deid.rebuild import Options, rebuild
from septum_client.deid.writing import written
from septum_client.imaging.parse import parse, silent

FILES = ("CT_small.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm")
OPTIONS = Options(dates="drop", patient_characteristics=True)


def by_pydicom(clean):
    out = BytesIO()
    dcmwrite(out, clean, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_the_bytes_are_those_that_pydicom_writes(name):
    with silent():
        original = parse(Path(get_testdata_file(name)).read_bytes())
        clean = rebuild(original, key=b"k" * 32, options=OPTIONS)
        content = written(clean)
        assert content == by_pydicom(clean)
        assert dcmread(BytesIO(content)).PatientID == clean.PatientID


def test_a_changed_data_set_is_written_with_the_change():
    with silent():
        original = parse(Path(get_testdata_file("CT_small.dcm")).read_bytes())
        clean = rebuild(original, key=b"k" * 32, options=OPTIONS)
        clean.Rows = 64
        assert dcmread(BytesIO(written(clean))).Rows == 64
