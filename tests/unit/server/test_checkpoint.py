import errno
import os

import numpy as np
import pytest

from septum.errors import EngineError
from septum_server import checkpoint
from septum_server.checkpoint import Checkpoint

DIGEST = "d" * 64


def made(number, value=1.0):
    return Checkpoint(digest=DIGEST, round=number, model=np.full(6, value, np.float32))


def test_the_newest_checkpoint_comes_back_byte_for_byte(tmp_path):
    for number in (0, 1, 10, 2):
        checkpoint.save(tmp_path, made(number, number / 3))
    last = checkpoint.latest(tmp_path, digest=DIGEST)
    assert last.round == 10
    assert last.model.tobytes() == made(10, 10 / 3).model.tobytes()


def test_what_a_strategy_carries_along_comes_back_byte_for_byte(tmp_path):
    state = {"momentum": np.arange(6, dtype=np.float32) / 7, "average": np.ones(6, np.float32)}
    plain = made(1)
    kept = Checkpoint(digest=DIGEST, round=1, model=plain.model, state=state)
    checkpoint.save(tmp_path, kept)
    last = checkpoint.latest(tmp_path, digest=DIGEST)
    assert {k: v.tobytes() for k, v in last.state.items()} == {
        k: v.tobytes() for k, v in state.items()
    }
    assert last.published.tobytes() == state["average"].tobytes()
    assert plain.published is plain.model


def test_an_empty_folder_has_none(tmp_path):
    assert checkpoint.latest(tmp_path, digest=DIGEST) is None


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_a_new_one(tmp_path, monkeypatch, name):
    checkpoint.save(tmp_path, made(1, 1.0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        *((checkpoint.Path, "replace") if name == "replace" else (os, "fsync")), full
    )
    with pytest.raises(EngineError, match="No space left"):
        checkpoint.save(tmp_path, made(1, 2.0))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["round-00001.npz"]
    assert checkpoint.latest(tmp_path, digest=DIGEST).model[0] == 1.0


def test_a_partial_file_of_a_killed_process_is_not_a_checkpoint(tmp_path):
    checkpoint.save(tmp_path, made(1))
    (tmp_path / ".partial-abc").write_bytes(b"half")
    (tmp_path / "round-00009.npz.tmp").write_bytes(b"half")
    assert checkpoint.latest(tmp_path, digest=DIGEST).round == 1


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"x" + raw[1:]]
)
def test_a_damaged_checkpoint_is_named_with_its_remedy(tmp_path, damage):
    checkpoint.save(tmp_path, made(1, 1.0))
    path = checkpoint.save(tmp_path, made(2, 2.0))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EngineError, match=r"round-00002.npz is damaged.*Delete it"):
        checkpoint.latest(tmp_path, digest=DIGEST)
    path.unlink()
    assert checkpoint.latest(tmp_path, digest=DIGEST).round == 1


def test_a_checkpoint_is_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    np.savez(tmp_path / "round-00001.npz", model=np.array([Bomb()]), round=1, digest=DIGEST)
    with pytest.raises(EngineError, match="damaged"):
        checkpoint.latest(tmp_path, digest=DIGEST)


def test_another_studys_run_is_not_resumed(tmp_path):
    checkpoint.save(tmp_path, made(1))
    with pytest.raises(EngineError, match="another study"):
        checkpoint.latest(tmp_path, digest="e" * 64)
