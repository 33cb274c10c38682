"""A turn is one process's, is given back by its death, and says why it cannot be had."""

import errno
import fcntl
import os

import pytest

from septum.errors import Code, DataError, Refusal
from septum_client import turns

STUDY = "5" * 64


def test_a_turn_is_one_holders_and_is_given_back_after_an_error(tmp_path):
    folder = tmp_path / "turns"
    with turns.taken(folder, STUDY, over=lambda: True):
        with pytest.raises(Refusal) as late, turns.taken(folder, STUDY, over=lambda: True):
            pytest.fail("two held it")
        assert late.value.code is Code.STILL_TRAINING
        with turns.taken(folder, "6" * 64, over=lambda: True):
            pass  # another study's
    with pytest.raises(ZeroDivisionError), turns.taken(folder, STUDY, over=lambda: True):
        raise ZeroDivisionError
    with turns.taken(folder, STUDY, over=lambda: True):
        assert (folder / f"{STUDY}.lock").stat().st_size == 0


def test_a_file_system_without_locks_is_named_and_nothing_trains(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    with (
        pytest.raises(DataError, match="cannot be locked"),
        turns.taken(tmp_path / "turns", STUDY, over=lambda: True),
    ):
        pytest.fail("it was held")
