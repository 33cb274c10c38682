"""An inbox whose engine is a stand-in: it renames, and refuses what it is told to."""

import hashlib
from io import BytesIO
from types import SimpleNamespace

import pytest
from pydicom import dcmread, dcmwrite

from septum.errors import Quarantine
from septum_client.pacs.inbox import Inbox
from septum_client.pacs.settings import Quota


def alias(uid):
    return f"2.25.{int.from_bytes(hashlib.sha256(uid.encode()).digest()[:16])}"


def deidentify(data):
    """Drop the patient and rename the instance; refuse what calls itself a fax."""
    ds = dcmread(BytesIO(data))
    if ds.get("Modality") == "OT":
        return Quarantine.SECONDARY_CAPTURE
    for keyword in ("PatientName", "PatientID"):
        if keyword in ds:
            del ds[keyword]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = alias(ds.SOPInstanceUID)
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def raw(header, **fields):
    out = BytesIO()
    dcmwrite(out, header(**({"PatientName": "SECRET^NAME"} | fields)), enforce_file_format=True)
    return out.getvalue()


@pytest.fixture
def pacs(tmp_path, dcm):
    def inbox(deidentify=deidentify, folder=tmp_path / "inbox", **quota):
        return Inbox(folder, deidentify=deidentify, alias=alias, quota=Quota(**quota))

    return SimpleNamespace(
        inbox=inbox,
        folder=tmp_path / "inbox",
        alias=alias,
        deidentify=deidentify,
        raw=lambda **fields: raw(dcm.header, **fields),
    )
