"""A coordinator that sends code: past its own operators' desk, straight into the SuperLink."""

import hashlib
import io
import ssl
import sys
import zipfile

import httpx
import pytest
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar

from septum.errors import Code
from septum.fab import CLIENT_APP, PYPROJECT, STUDY_KEY
from septum_server.relay import GATE

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.timeout(900),
]


def bundle_with(code: str) -> bytes:
    """Return a bundle of Flower's form whose client app is a module that it brings along."""
    files = {"pyproject.toml": PYPROJECT.replace(CLIENT_APP, "brought:app"), "brought.py": code}
    listed = "\n".join(
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text.encode())}"
        for name, text in files.items()
    )
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as file:
        for name, text in {**files, ".info/CONTENT": listed}.items():
            file.writestr(name, text)
    return bundle.getvalue()


def start(coordinator, digest: str, content: bytes) -> None:
    """Start a run as whoever holds the coordinator's folder can."""
    asked = StartRunRequest(
        fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
        override_config={STUDY_KEY: Scalar(string=digest)},
    )
    media = "application/protobuf"
    told = httpx.post(
        f"https://127.0.0.1:{coordinator.settings.inner_port}/v1/control/start-run",
        content=asked.SerializeToString(),
        headers={
            "content-type": media,
            "accept": media,
            GATE: (coordinator.folder / "gate").read_text(),
        },
        verify=ssl.create_default_context(cafile=str(coordinator.ca_path)),
        trust_env=False,
    )
    assert told.status_code == 200, told.text


def test_a_bundle_with_code_is_refused_before_anything_of_it_is_imported(world, tmp_path):
    there = world("north", rounds=1)
    proof = tmp_path / "it ran"
    home = there.made.sites["north"].folder
    with there.up():
        there.connected()
        code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n"
        start(there.made.coordinator, there.made.digest, bundle_with(code))
        there.recorded(1)
        there.finished()
    assert there.entry(1).refused == {"north": Code.BUNDLE_NOT_ALLOWED}
    assert not proof.exists()
    assert not list(home.rglob("brought*"))
    assert there.charges("north") == 0
    assert Code.BUNDLE_NOT_ALLOWED in (home / "private.log").read_text()
