"""Compose services as plain processes held to their limits: they start, and can be split again."""

import os
import subprocess
import sys

import pytest

from septum_client import coordinator
from septum_client.coordinator import Coordinator
from septum_client.policy import Policy
from septum_client.site import Site

from .contained import Engine, cannot

DESK, NODE = 10001, 10002
SPLIT = ("site", "split", "/node", "--site", "/site")
NOWHERE = """
import errno, os, tempfile
def refused(*args, **kwargs):
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")
tempfile.mkdtemp = refused
import septum
assert "MPLCONFIGDIR" not in os.environ
"""
WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
import tempfile
tempfile.mkdtemp = None
import septum
"""


@pytest.fixture
def engine(root, tmp_path):
    if why := cannot():
        pytest.skip(why)
    return Engine(root, tmp_path, "hospital")


def owned(folder, user):
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def test_the_door_opens_where_it_can_write_nowhere(engine):
    del engine.services["door"]["tmpfs"]
    command = engine.command("door", "0.0.0.0:8443", "192.0.2.10:8443")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr.readline() == "listening on 8443\n"
        finally:
            process.kill()


@pytest.mark.parametrize("code", [NOWHERE, WITHOUT_MATPLOTLIB], ids=["nowhere", "not needed"])
def test_septum_is_imported_without_a_folder_that_cannot_be_made_or_is_not_needed(code):
    kept = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_site_is_split_again_by_the_steps_of_the_page_and_not_without_them(engine, tmp_path):
    site, node = tmp_path / "site", tmp_path / "node"
    Site.create(site, name="north", policy=Policy())
    known = Coordinator(
        address="fl.example.org:8443", ca="-----BEGIN CERTIFICATE-----", key="0" * 64,
        septum="0.1.0", bundle="0" * 64, accepted="2026-06-01", revoked=("1" * 64,),
    )  # fmt: skip
    coordinator.keep(site, known)
    node.mkdir(mode=0o700)
    owned(site, DESK)
    owned(node, DESK)
    first = engine.run("desk", *SPLIT)
    assert first.returncode == 0, first.stderr
    owned(node, NODE)
    coordinator.keep(site, known.model_copy(update={"address": "fl.example.org:443"}))
    owned(site, DESK)
    assert engine.run("desk", *SPLIT).returncode != 0
    owned(node, DESK)
    again = engine.run("desk", *SPLIT)
    assert again.returncode == 0, again.stderr
    assert coordinator.joined(node).address == "fl.example.org:443"
