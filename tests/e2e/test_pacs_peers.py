"""Real peers on loopback: DCMTK pushes, Orthanc is pulled from. Skipped where they are missing."""

import contextlib
import hashlib
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
from datetime import datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file

from septum.errors import ConfigError, EngineError, Quarantine
from septum_client.pacs.inbox import Arrival, Inbox
from septum_client.pacs.pull import Query, pull
from septum_client.pacs.receive import receive
from septum_client.pacs.settings import Pull, Quota, Receive, Settings

WAIT_S = 60
WEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


def program(name, *needs):
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if not found or not all(Path(path).exists() for path in needs):
        pytest.skip(f"{name} is not installed")
    return found


def alias(uid):
    return f"2.25.{int.from_bytes(hashlib.sha256(str(uid).encode()).digest()[:16])}"


def deidentify(data):
    """Stand in for the engine: rename, drop the patient, refuse reports."""
    ds = dcmread(BytesIO(data))
    if "PixelData" not in ds:
        return Quarantine.NO_PIXELS
    for keyword in ("PatientName", "PatientID", "AccessionNumber"):
        if keyword in ds:
            del ds[keyword]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = alias(ds.SOPInstanceUID)
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


@pytest.fixture
def inbox(tmp_path):
    def opened(deidentify=deidentify, **quota):
        return Inbox(tmp_path / "inbox", deidentify=deidentify, alias=alias, quota=Quota(**quota))

    return opened


def held(tmp_path):
    """Return the inbox's data sets by keyed UID; a file of any other kind fails the test."""
    found = {}
    for path in (tmp_path / "inbox").iterdir():
        found[path.name.removesuffix(".dcm")] = dcmread(path)
    return found


def copies(folder, count, name="CT_small.dcm", **fields):
    """Write ``count`` instances that differ in their UID and one pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    ds = dcmread(get_testdata_file(name))
    paths = []
    for number in range(count):
        ds.SOPInstanceUID = f"1.2.826.0.1.99.{int(folder.name.encode().hex(), 16)}.{number}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        for keyword, value in fields.items():
            setattr(ds, keyword, value)
        ds.PixelData = bytes([number % 256]) + ds.PixelData[1:]
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1])
    return paths


# The receiver, pushed to by DCMTK


@pytest.fixture
def serving():
    """Return a function that starts a receiver; all are stopped at the end."""
    started = []

    def start(inbox, **fields):
        settings = Settings(receive=Receive(**({"peers": ("PACS",), "port": 0} | fields)))
        ready, stop, at = threading.Event(), threading.Event(), SimpleNamespace()

        def announce(listening):
            at.port = listening.port
            ready.set()

        def run():
            at.result = receive(settings, inbox, stop=stop, announce=announce)

        thread = threading.Thread(target=run)
        at.stop = lambda: (stop.set(), thread.join(WAIT_S))
        thread.start()
        started.append(at)
        assert ready.wait(WAIT_S)
        return at

    yield start
    for at in started:
        at.stop()


def dcmtk(name, at, *arguments, called="SEPTUM", calling="PACS"):
    """Run a DCMTK peer to its end and return it."""
    where = ("127.0.0.1", str(at.port))
    return subprocess.run(
        [program(name), "-aec", called, "-aet", calling, *where, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def storescu(at, *arguments, **titles):
    return dcmtk("storescu", at, "-v", *arguments, **titles)


def test_echoscu_is_answered_and_a_wrong_title_is_not(serving, inbox):
    at = serving(inbox())
    assert dcmtk("echoscu", at).returncode == 0
    assert dcmtk("echoscu", at, called="OTHER").returncode != 0
    assert dcmtk("echoscu", at, calling="OTHER").returncode != 0


@pytest.mark.parametrize(
    ("name", "propose"),
    [
        ("CT_small.dcm", "-xe"),
        ("MR_small_implicit.dcm", "-xi"),
        ("MR_small_bigendian.dcm", "-xb"),
        ("MR_small_RLE.dcm", "-xr"),
        ("MR_small_jp2klossless.dcm", "-xv"),
        ("MR_small_jpeg_ls_lossless.dcm", "-xt"),
        ("JPEG2000.dcm", "-xw"),
        ("JPGExtended.dcm", "-xx"),
    ],
)
def test_storescu_pushes_each_syntax_and_the_pixels_stay_as_they_were(
    serving, inbox, tmp_path, name, propose
):
    path = get_testdata_file(name)
    at = serving(inbox())
    sent = storescu(at, propose, path)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    original = dcmread(path)
    stored = held(tmp_path)[alias(original.SOPInstanceUID)]
    assert stored.PixelData == original.PixelData
    assert stored.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert "PatientName" not in stored


def test_storescu_s_refused_instance_fails_there_and_leaves_nothing_here(serving, inbox, tmp_path):
    box = inbox(lambda data: Quarantine.BURNED_IN_TEXT)
    sent = storescu(serving(box), get_testdata_file("CT_small.dcm"))
    assert "Received Store Response (Error: CannotUnderstand)" in sent.stdout + sent.stderr
    assert held(tmp_path) == {}
    assert box.counts() == {Quarantine.BURNED_IN_TEXT: 1}


def test_storescu_with_a_wrong_title_stores_nothing(serving, inbox, tmp_path):
    at = serving(inbox())
    assert storescu(at, get_testdata_file("CT_small.dcm"), called="OTHER").returncode != 0
    assert storescu(at, get_testdata_file("CT_small.dcm"), calling="OTHER").returncode != 0
    assert held(tmp_path) == {}
    at.stop()
    assert at.result.turned_away == (("associations rejected: AE title or number", 2),)


def test_storescu_s_oversized_instance_is_cut_off_and_the_next_peer_is_served(
    serving, inbox, tmp_path
):
    box = inbox()
    at = serving(box, maximum_instance=60_000)
    (big,) = copies(tmp_path / "big", 1)
    ds = dcmread(big)
    ds.Rows, ds.PixelData = 128 * 256, ds.PixelData * 256
    ds.save_as(big)
    assert storescu(at, big).returncode != 0
    assert storescu(at, get_testdata_file("CT_small.dcm")).returncode == 0
    at.stop()
    assert box.counts() == {Arrival.STORED: 1}
    assert at.result.turned_away[0][0].startswith("associations cut off")


def test_many_peers_push_at_once_and_each_instance_is_written_once(serving, inbox, tmp_path):
    box = inbox()
    at = serving(box, maximum_associations=8)
    folders = [copies(tmp_path / f"peer{n}", 12)[0].parent for n in range(4)]
    push = [program("storescu"), "-aec", "SEPTUM", "-aet", "PACS", "+sd", "127.0.0.1", str(at.port)]
    peers = [
        subprocess.Popen(
            [*push, str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in (*folders, *folders)
    ]
    assert [peer.wait(WAIT_S) for peer in peers] == [0] * 8
    assert box.counts() == {Arrival.STORED: 48, Arrival.HELD: 48}
    assert len(held(tmp_path)) == 48


def test_a_push_logs_nothing_and_leaves_no_raw_byte_in_the_folder(
    serving, inbox, tmp_path, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    (path,) = copies(tmp_path / "x", 1, PatientName="SECRET^NAME")
    at = serving(inbox())
    assert storescu(at, path).returncode == 0
    at.stop()
    assert caplog.text + "".join(capfd.readouterr()) == ""
    for file in (tmp_path / "inbox").iterdir():
        assert b"SECRET" not in file.read_bytes()


# Orthanc, pulled from by DICOMweb

READER = ("reader", "a password")


class Orthanc:
    """One Orthanc with its own storage; ended by its own process."""

    def __init__(self, folder):
        binary = program("Orthanc", WEB)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        folder.mkdir()
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "HttpPort": self.port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": True,
                    "RegisteredUsers": dict([READER]),
                    "DicomServerEnabled": False,
                    "Plugins": [WEB],
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                }
            )
        )
        self._command = [binary, str(folder / "orthanc.json")]
        (folder / "secret").write_text(":".join(READER))
        (folder / "secret").chmod(0o600)
        self.secret = folder / "secret"
        self.root = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.root}/dicom-web/studies", auth=READER, timeout=10).ok:
                    return
            assert self._process.poll() is None
            assert time.monotonic() < deadline

    def kill(self):
        self._process.kill()
        self._process.wait(WAIT_S)

    def upload(self, *paths):
        for path in paths:
            done = requests.post(
                f"{self.root}/instances", data=Path(path).read_bytes(), auth=READER, timeout=30
            )
            assert done.ok, done.text

    def settings(self, **fields):
        part = {
            "url": f"{self.root}/dicom-web",
            "authorization": "basic",
            "secret": self.secret,
            "attempts": 1,
            "page": 3,
        }
        return Settings(pull=Pull(**(part | fields)))


@pytest.fixture
def orthanc(tmp_path):
    server = Orthanc(tmp_path / "orthanc")
    yield server
    server.kill()


def ct(**fields):
    return Query(**({"modality": "CT", "accessions": ("A-1",)} | fields))


def test_what_matches_is_pulled_whole_and_nothing_else_is(orthanc, inbox, tmp_path):
    wanted = copies(tmp_path / "ct", 8, AccessionNumber="A-1")
    other = copies(tmp_path / "ct2", 1, AccessionNumber="A-2", StudyInstanceUID="1.2.3.9")
    orthanc.upload(*wanted, *other, get_testdata_file("MR_small.dcm"))
    box, seen = inbox(), []
    done = pull(orthanc.settings(), ct(), box, seen.append)
    assert (done.found, done.fetched, done.held, done.complete) == (8, 8, 0, True)
    assert [counts.found for counts in seen] == [*range(1, 9), 8]
    stored = held(tmp_path)
    assert set(stored) == {alias(dcmread(path).SOPInstanceUID) for path in wanted}
    for path in wanted:
        original = dcmread(path)
        assert stored[alias(original.SOPInstanceUID)].PixelData == original.PixelData
    assert box.counts() == {Arrival.STORED: 8}


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_a_compressed_instance_comes_as_it_is_stored(orthanc, inbox, tmp_path, name):
    orthanc.upload(get_testdata_file(name))
    original = dcmread(get_testdata_file(name))
    when = datetime.strptime(original.StudyDate, "%Y%m%d").date()
    done = pull(orthanc.settings(), Query(modality="MR", since=when, until=when), inbox())
    assert done.fetched == 1
    (stored,) = held(tmp_path).values()
    assert stored.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert stored.PixelData == original.PixelData


def test_a_body_part_that_a_series_does_not_say_is_left_out(orthanc, inbox, tmp_path):
    series = {
        "CHEST": {"BodyPartExamined": "CHEST", "SeriesInstanceUID": "1.2.3.4.1"},
        "HEAD": {"BodyPartExamined": "HEAD", "SeriesInstanceUID": "1.2.3.4.2"},
        "none": {"BodyPartExamined": "", "SeriesInstanceUID": "1.2.3.4.3"},
    }
    for name, fields in series.items():
        orthanc.upload(*copies(tmp_path / name, 1, AccessionNumber="A-1", **fields))
    assert pull(orthanc.settings(), ct(body_part="CHEST"), inbox()).found == 1
    assert pull(orthanc.settings(), ct(), inbox()).found == 3


def test_a_server_killed_in_mid_pull_is_a_clear_error_and_the_next_pull_goes_on(
    orthanc, inbox, tmp_path
):
    orthanc.upload(*copies(tmp_path / "ct", 8, AccessionNumber="A-1"))

    def kill_after_three(counts):
        if counts.fetched == 3:
            orthanc.kill()

    with pytest.raises(EngineError, match="did not answer") as caught:
        pull(orthanc.settings(), ct(), inbox(), kill_after_three)
    assert "A-1" not in str(caught.value)
    assert len(held(tmp_path)) == 3
    orthanc.start()
    done = pull(orthanc.settings(), ct(), inbox())
    assert (done.held, done.fetched, done.complete) == (3, 5, True)
    assert len(held(tmp_path)) == 8


def test_an_instance_that_is_too_long_is_left_out_and_counted(orthanc, inbox, tmp_path):
    orthanc.upload(*copies(tmp_path / "ct", 2, AccessionNumber="A-1"))
    done = pull(orthanc.settings(maximum_instance=10_000), ct(), inbox())
    assert (done.found, done.fetched, done.not_delivered) == (2, 0, 2)
    assert held(tmp_path) == {}


def test_a_full_inbox_ends_the_pull(orthanc, inbox, tmp_path):
    orthanc.upload(*copies(tmp_path / "ct", 6, AccessionNumber="A-1"))
    done = pull(orthanc.settings(), ct(), inbox(maximum_files=2))
    assert (done.fetched, done.complete) == (3, False)
    assert done.lines()[-1] == "stopped before the end of the query"
    assert len(held(tmp_path)) == 2


def test_a_wrong_password_is_named_but_not_shown(orthanc, inbox):
    orthanc.secret.write_text("reader:hunter2")
    with pytest.raises(ConfigError, match="HTTP 401") as caught:
        pull(orthanc.settings(), ct(), inbox())
    assert "hunter2" not in str(caught.value)


def test_a_pull_logs_no_accession_number_and_no_instance(orthanc, inbox, tmp_path, caplog, capfd):
    orthanc.upload(*copies(tmp_path / "ct", 2, AccessionNumber="A-1"))
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    done = pull(orthanc.settings(), ct(), inbox())
    assert caplog.text + "".join(capfd.readouterr()) == ""
    assert "A-1" not in repr(ct()) + "\n".join(done.lines())
