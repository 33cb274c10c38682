import csv
import gzip
import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image

from septum.errors import DataError, Quarantine
from septum_client import sources
from septum_client.sources import dicomdir, export
from septum_client.sources.items import kind_of

SECRET = "Meier^Anna"
INDEX = b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10"


def png():
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(out, "PNG")
    return out.getvalue()


def nifti():
    return b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\x00" + bytes(100)


def zipped(entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def seen(source, **kwargs):
    return [(item.key, item.kind, item.code) for item in sources.walk(source, **kwargs)]


def test_what_an_export_holds_is_known_by_its_content(tmp_path, dcm):
    (tmp_path / "labels.csv").write_text("patient_id,sick\n")
    dcm.write(tmp_path / "A" / "IM0")
    (tmp_path / "A" / "image.dcm").write_bytes(png())
    (tmp_path / "A" / "late.csv").write_text("x")
    (tmp_path / "A" / "volume").write_bytes(nifti())
    (tmp_path / "A" / "zvolume").write_bytes(gzip.compress(nifti()))
    (tmp_path / "B.nii.gz").write_bytes(b"broken")
    (tmp_path / "DISC").write_bytes(bytes(128) + b"DICM" + INDEX)
    assert seen(tmp_path) == [
        ("A/IM0", "dicom", None),
        ("A/image.dcm", "picture", None),
        ("A/late.csv", "dicom", None),
        ("A/volume", "nifti", None),
        ("A/zvolume", "nifti", None),
        ("B.nii.gz", "nifti", None),
        ("DISC", "index", None),
        ("labels.csv", "table", None),
    ]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_each_kind_of_picture_is_known_without_its_name(format):
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(out, format)
    assert kind_of(out.getvalue()[:4096], "x", at_top=True) == "picture"


def test_a_preamble_that_is_also_a_tiff_header_is_dicom():
    assert kind_of(b"II*\x00" + bytes(124) + b"DICM", "x.tif", at_top=True) == "dicom"


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "image_dfl.dcm", "no_meta.dcm"])
def test_real_files_are_dicom(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    with Path(path).open("rb") as file:
        assert kind_of(file.read(4096), "", at_top=True) == "dicom"


def test_the_order_is_that_of_the_paths_whatever_the_disk_lists(tmp_path, monkeypatch):
    names = ["b/2", "b/10", "b!/1", "a", "c.zip", "d/e/f"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "c.zip").write_bytes(zipped([("z", b"1"), ("y/x", b"2"), ("y.x", b"3")]))
    first = seen(tmp_path)
    real = os.walk

    def shuffled(*args, **kwargs):
        for folder, subfolders, files in real(*args, **kwargs):
            random.Random(1).shuffle(subfolders)
            yield folder, subfolders, files[::-1]

    monkeypatch.setattr(export.os, "walk", shuffled)
    assert seen(tmp_path) == first
    keys = [key for key, _, _ in first]
    assert keys == sorted(keys, key=lambda key: key.split("/"))
    assert {"c.zip/z", "c.zip/y/x", "c.zip/y.x"} < set(keys)


def test_what_is_no_file_is_counted_and_never_waited_for(tmp_path):
    (tmp_path / "in" / "side").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert seen(tmp_path) == [
        (name, "dicom", Quarantine.UNREADABLE) for name in ("gone", "loop", "pipe")
    ]
    assert sources.count(tmp_path) == 3


def test_a_link_to_a_file_is_that_file(tmp_path, dcm):
    dcm.write(tmp_path / "elsewhere" / "x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "y").symlink_to(tmp_path / "elsewhere" / "x")
    assert seen(tmp_path / "source") == [("y", "dicom", None)]


@pytest.mark.parametrize("made", ["nothing", "file", "pipe"])
def test_a_source_that_is_none_is_one_sentence_without_its_name(tmp_path, made):
    source = tmp_path / SECRET
    if made == "file":
        source.write_bytes(b"text")
    if made == "pipe":
        os.mkfifo(source)
    for look in (sources.walk, sources.tables):
        with pytest.raises(DataError, match="neither a folder") as caught:
            look(source)
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None


def test_a_folder_that_cannot_be_listed_stops_the_walk_before_it_starts(tmp_path, monkeypatch):
    def denied(source, onerror):
        onerror(PermissionError(13, "denied", SECRET))
        return iter(())

    monkeypatch.setattr(export.os, "walk", denied)
    with pytest.raises(DataError, match="1 folder") as caught:
        sources.walk(tmp_path)
    assert SECRET not in str(caught.value)


def test_an_archive_counts_as_a_folder(tmp_path):
    inner = zipped([("deep/IM1", b"2")])
    (tmp_path / "x.zip").write_bytes(zipped([("IM0", b"1"), ("f/", b""), ("in.zip", inner)]))
    items = list(sources.walk(tmp_path))
    assert [(item.key, item.content) for item in items] == [
        ("x.zip/IM0", b"1"),
        ("x.zip/in.zip/deep/IM1", b"2"),
    ]
    assert sources.count(tmp_path) == 2


def test_an_archive_can_be_the_source_and_its_one_top_folder_is_left_out(tmp_path):
    table = b"patient_id,sick\r\nA,1\r\n"
    entries = [("out/labels.csv", table), ("out/a/IM0", b"1"), ("__MACOSX/out/._IM0", b"2")]
    (tmp_path / "x.zip").write_bytes(zipped(entries))
    assert seen(tmp_path / "x.zip") == [
        ("__MACOSX/out/._IM0", "dicom", None),
        ("a/IM0", "dicom", None),
        ("labels.csv", "table", None),
    ]
    assert sources.tables(tmp_path / "x.zip") == [("labels.csv", table)]
    assert sources.count(tmp_path / "x.zip") == 3


def test_no_item_shows_a_name_or_a_byte(tmp_path):
    (tmp_path / f"{SECRET}.zip").write_bytes(zipped([(SECRET, SECRET), (f"../{SECRET}", b"")]))
    (tmp_path / SECRET).write_text(SECRET)
    items = list(sources.walk(tmp_path))
    assert len(items) == 3
    assert SECRET not in repr(items)


def missing(data, key, present):
    """Return how many files a directory names that are not among ``present``."""
    roll = dicomdir.Roll()
    items = [sources.Item(key=key, kind="index", content=data)]
    items += [sources.Item(key=other) for other in present]
    assert list(roll.watch(items)) == items
    return roll.missing


def test_a_dicomdir_names_what_is_missing():
    path = pydicom.data.get_testdata_file("DICOMDIR", download=False)
    with Path(path).open("rb") as file:
        data = file.read()
    # The oracle is pydicom's parser.
    named = {
        "/".join(record.ReferencedFileID)
        for record in pydicom.dcmread(path).DirectoryRecordSequence
        if "ReferencedFileID" in record
    }
    assert len(named) > 20
    present = [f"disc/{name.lower()}" for name in named]
    assert missing(data, "disc/DICOMDIR", present) == 0
    assert missing(data, "disc/DICOMDIR", present[3:]) == 3
    assert missing(data, "DICOMDIR", present) == len(named)
    assert missing(data, "disc/DICOMDIR", [p + ";1" for p in present]) == 0


def test_a_broken_dicomdir_names_nothing_it_does_not_hold():
    start = b"\x04\x00\x00\x15CS"
    for data in (b"", start, start + b"\xff\xff", start + b"\x04\x00\\\\\\\\", start * 1000):
        assert missing(data, "DICOMDIR", ()) <= len(data) // 6


def test_the_index_of_a_real_disc_is_an_index(tmp_path):
    path = pydicom.data.get_testdata_file("DICOMDIR", download=False)
    with Path(path).open("rb") as file:
        (tmp_path / "DICOMDIR").write_bytes(file.read())
    assert seen(tmp_path) == [("DICOMDIR", "index", None)]


def test_a_labels_table_lies_at_the_top_only(tmp_path):
    with (tmp_path / "labels.CSV").open("w") as out:
        csv.writer(out).writerow(["patient_id"])
    (tmp_path / "x.zip").write_bytes(zipped([("labels.csv", b"patient_id\n")]))
    assert seen(tmp_path) == [("labels.CSV", "table", None), ("x.zip/labels.csv", "dicom", None)]
