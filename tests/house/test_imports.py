"""Importing Septum is quiet: no telemetry, no network, nothing in the user's home."""

import json
from collections.abc import Callable
from pathlib import Path

import septum


def test_telemetry_is_off_before_flower_can_read_the_variables(
    fresh_python: Callable[..., str],
) -> None:
    found = json.loads(fresh_python("import json, os, septum; print(json.dumps(dict(os.environ)))"))
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found.items() >= septum.SILENCE.items()


def test_importing_a_zone_alone_silences_flower_too(fresh_python: Callable[..., str]) -> None:
    for module in ("septum_client.app", "septum_server.app", "septum_bench.engine"):
        said = fresh_python(
            f"import {module}; from flwr.supercore import telemetry as t;"
            "print(t.FLWR_TELEMETRY_ENABLED)"
        )
        assert said.strip() == "0", module


def test_importing_every_module_talks_to_nobody_and_writes_nothing_in_the_home(
    modules: tuple[str, ...], fresh_python: Callable[..., str], tmp_path: Path
) -> None:
    said = fresh_python(
        """
import importlib, json, sys
LOOPBACK = ("::1", "127.0.0.1", "localhost")
calls = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg"):
        calls.append(event)
    elif event == "socket.bind" and arguments[1][0] not in LOOPBACK:
        # urllib3 asks the kernel whether IPv6 works by binding a loopback port.
        calls.append(event)
    elif event == "subprocess.Popen" and arguments[0] != "fc-list":  # Matplotlib lists fonts
        calls.append(f"starts {arguments[0]!r}")
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(set(calls))))
""",
        *modules,
    )
    assert json.loads(said.splitlines()[-1]) == []
    assert not list((tmp_path / "home").rglob("*"))
