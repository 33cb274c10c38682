import os
import signal
from pathlib import Path

import pytest

from septum.errors import ConfigError
from septum_client import up
from septum_client.coordinator import Coordinator, keep
from septum_client.up import _News, until_stopped

ADDRESS = "fl.example.org:8443"
COORDINATOR = Coordinator(
    address=ADDRESS,
    ca="-----BEGIN CERTIFICATE-----",
    key="0" * 64,
    septum="0.1.0",
    bundle="0" * 64,
    accepted="2026-06-01",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text('name = "north"\n')
    keep(tmp_path, COORDINATOR)
    for part in ("logs", "outbox", "approved"):
        (tmp_path / part).mkdir()
    return tmp_path


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("gone", "said"),
    [("site.toml", "holds no site"), ("coordinator.toml", "joined no coordinator")],
)
def test_without_site_or_coordinator_nothing_starts(folder, gone, said, monkeypatch):
    monkeypatch.setattr(up, "Supervisor", pytest.fail)
    (folder / gone).unlink()
    with pytest.raises(ConfigError, match=said):
        up.serve(folder, notice=pytest.fail, wait=lambda _: True)


@pytest.mark.parametrize("text", ["address = ", 'address = "a"', "\xff"])
def test_a_damaged_file_is_an_error_with_a_remedy(folder, text, monkeypatch):
    monkeypatch.setattr(up, "Supervisor", pytest.fail)
    (folder / "coordinator.toml").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="join again"):
        up.serve(folder, notice=pytest.fail, wait=lambda _: True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_way_to_ask_for_the_end_is_heard_and_the_old_handler_comes_back(number):
    before = signal.getsignal(number)
    with until_stopped() as wait:
        assert not wait(0)
        os.kill(os.getpid(), number)
        assert wait(10)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("INFO :      SuperNode ID: 12", f"Connected to {ADDRESS}."),
        ("Connection successful after 83.86 seconds and 8 tries.", f"Connected to {ADDRESS}."),
        ("[code: 2004] Node is online", "does not let this site in"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired", "has ended"),
        ("Connection attempt failed, retrying in 1.0 seconds", f"No answer from {ADDRESS}"),
    ],
)
def test_what_flower_writes_is_told_in_words_with_a_remedy(folder, line, said):
    news = _News(folder, address=ADDRESS)
    write(folder / "logs/supernode.log", f"{line}\n")
    (told,) = news.next()
    assert said in told


def test_the_same_trouble_is_told_once_until_something_else_happens(folder):
    news = _News(folder, address=ADDRESS)
    failed, there = "Connection attempt failed\n", "SuperNode ID: 1\n"
    write(folder / "logs/supernode.log", failed * 5 + there + failed)
    assert len(list(news.next())) == 3
    assert not list(news.next())


def test_what_was_there_before_the_start_is_not_told(folder):
    write(folder / "logs/supernode.log", "SuperNode ID: 1\n")
    write(folder / "private.log", '{"at": "x", "code": "SITE_202", "error": "y"}\n')
    (folder / "outbox/a.npy").touch()
    assert not list(_News(folder, address=ADDRESS).next())


def test_a_refusal_is_told_by_its_code_and_without_its_text(folder):
    news = _News(folder, address=ADDRESS)
    write(folder / "private.log", '{"at": "x", "code": "SITE_210", "error": "Mrs Canary"}\n')
    (told,) = news.next()
    assert "SITE_210" in told
    assert "Canary" not in told


def test_a_release_is_told(folder):
    news = _News(folder, address=ADDRESS)
    (folder / "outbox/a.npy").touch()
    (told,) = news.next()
    assert "1 in all" in told


def test_a_log_that_was_begun_anew_is_read_from_its_beginning(folder):
    log = folder / "logs/supernode.log"
    write(log, "old\n" * 100)
    news = _News(folder, address=ADDRESS)
    log.write_text("SuperNode ID: 1\n")
    assert len(list(news.next())) == 1
