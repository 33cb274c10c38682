"""Plant a token in everything a header can say, then search what came out."""

import logging
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag

from septum.errors import DataError
from septum_client import ingest as ingesting
from septum_client.cohort import CohortSpec
from septum_client.ingest import Terms
from septum_client.rules import Intake

TEXT = {"LO", "SH", "ST", "LT", "UT", "PN", "UC", "AE", "CS"}
# A file that says in one of these that it is no picture of a patient is refused before all else.
OURS = {
    *("PatientSex", "PhotometricInterpretation", "SpecificCharacterSet"),
    *("BurnedInAnnotation", "ConversionType", "ImageType", "Modality", "SyntheticData"),
}
SPEC = CohortSpec(image_size=16, labels=("sick",), test_fraction=0.4)
TERMS = Terms(rules=Intake(burned_in_text="header"))
KEY = b"\x07" * 32


def plant(ds, token):
    """Fill every textual attribute of the standard, a sequence, a private block, the preamble."""
    for tag, (vr, *_rest) in DicomDictionary.items():
        keyword = keyword_for_tag(tag)
        if vr in TEXT and keyword and keyword not in OURS and 0x0008 <= tag >> 16 < 0x6000:
            setattr(ds, keyword, f"{token}x{tag:08X}"[:16] if vr in {"CS", "AE", "SH"} else token)
    ds.PatientBirthDate, ds.StudyDate = "19500102", "20200102"
    item = pydicom.Dataset()
    item.PatientName = f"{token}nested"
    ds.OtherPatientIDsSequence = [item]
    ds.private_block(0x0009, f"{token}creator", create=True).add_new(1, "LO", f"{token}private")
    ds.PatientComments = token * 3
    ds.preamble = token.encode().ljust(128, b"\0")[:128]
    ds.file_meta.SourceApplicationEntityTitle = token[:16]
    return ds


@pytest.fixture(scope="module")
def tokens():
    return [f"Tok{p}Zq{p * 7919}" for p in range(8)]


def hospital(source, dcm, tokens):
    source.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for p, token in enumerate(tokens):
            ds = plant(dcm.header(pixels=dcm.image(p)), token)
            ds.PatientID = f"{token}id"
            ds.SOPInstanceUID = f"1.2.826.{p}.7919{p}"
            dcm.write(source / f"{token}dir" / f"{token}.dcm", ds)
        bad = plant(dcm.header(PixelData=None), tokens[1])
        dcm.write(source / f"{tokens[1]}bad", bad)
    dcm.table(source, [(f"{t}id", p % 2) for p, t in enumerate(tokens)], name=f"{tokens[0]}.csv")
    return source


def test_no_identifier_reaches_disk_log_or_screen(tmp_path, dcm, tokens, caplog, capfd):
    source = hospital(tmp_path / "export", dcm, tokens)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cohort = ingesting.ingest(source, tmp_path / "cohort", spec=SPEC, terms=TERMS, key=KEY)
    assert len(cohort.images) == 8
    assert sum(cohort.quarantined.values()) == 1
    planted = b"".join(p.read_bytes() for p in source.glob("*/*"))
    assert planted.count(tokens[0][:6].encode()) > 1000  # positive control of the search
    written = b""
    for path in (tmp_path / "cohort").iterdir():
        written += path.name.encode() + path.read_bytes()
    with zipfile.ZipFile(tmp_path / "cohort" / "index.npz") as archive:
        written += b"".join(archive.read(name) for name in archive.namelist())
    shown = "".join(capfd.readouterr()) + caplog.text + repr(cohort) + repr(cohort.meta)
    shown += "".join(str(warning.message) for warning in caught)
    for secret in (*(t[:6] for t in tokens), "1.2.826", "19500102", "20200102"):
        assert secret.encode() not in written
        assert secret.encode("utf-16-le") not in written
        assert secret.encode("utf-32-le") not in written
        assert secret not in shown


def test_no_identifier_is_in_any_error(tmp_path, dcm, tokens):
    source = hospital(tmp_path / "export", dcm, tokens)
    rows = [(f"{t}id", p % 2) for p, t in enumerate(tokens)]
    name = f"{tokens[0]}.csv"
    faults = [
        ([*rows[:-1], (tokens[7], 1)], ("patient_id", "sick")),
        (rows + rows[:1], ("patient_id", "sick")),
        ([(t, 5) for t, _ in rows], ("patient_id", "sick")),
        (rows, (tokens[0], tokens[1])),
        (rows, ("patient_id", "ill")),
        ([(t, 1) for t, _ in rows], ("patient_id", "sick")),
        (rows[:1], ("patient_id", "sick")),
        ([(tokens[0], "1.2.826.1.79191", 1)], ("patient_id", "sop_instance_uid", "sick")),
    ]
    for body, columns in faults:
        dcm.table(source, body, columns, name=name)
        with pytest.raises(DataError) as caught:
            ingesting.ingest(source, tmp_path / "cohort", spec=SPEC, terms=TERMS, key=KEY)
        error = caught.value
        while error is not None:
            told = f"{error} {error.args} {vars(error)}"
            assert not any(token[:6] in told for token in tokens)
            error = error.__cause__ or error.__context__


def test_pixels_of_two_sites_differ_in_nothing_but_order(tmp_path, dcm, tokens):
    source = hospital(tmp_path / "export", dcm, tokens)
    a = ingesting.ingest(source, tmp_path / "a", spec=SPEC, terms=TERMS, key=KEY)
    b = ingesting.ingest(source, tmp_path / "b", spec=SPEC, terms=TERMS, key=KEY[:-1] + b"\x08")
    assert set(a.pseudonyms).isdisjoint(b.pseudonyms)
    assert np.array_equal(
        np.sort(a.images.sum(axis=(1, 2, 3), dtype=np.float64)),
        np.sort(b.images.sum(axis=(1, 2, 3), dtype=np.float64)),
    )
