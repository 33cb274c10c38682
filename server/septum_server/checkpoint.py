"""The global model of every round, each written whole or not at all."""

import fcntl
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from septum.durable import replace
from septum.errors import EngineError
from septum_strategies import AVERAGE

if TYPE_CHECKING:
    from septum.models import Vector  # imports torch, for which who asks for a status would wait

_STATE: Final = "state_"
_FILE: Final = re.compile(r"round-(\d{5})\.npz")


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The global model, float32 (params,), after ``round`` rounds of the study ``digest``.

    ``state`` is what the server's strategy carries to the next round: vectors
    of the model's shape, made of releases alone.
    """

    digest: str
    round: int
    model: "Vector"
    state: Mapping[str, "Vector"] = field(default_factory=dict)

    @property
    def published(self) -> "Vector":
        """The model to hand out: the moving average where the study keeps one."""
        return self.state.get(AVERAGE, self.model)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint`` into ``folder`` atomically and durably; return its path.

    Raises:
      EngineError: The disk is full or the folder cannot be written.
    """
    path = folder / f"round-{checkpoint.round:05d}.npz"
    arrays: dict[str, Any] = {  # the stubs take the names for options
        "model": checkpoint.model,
        "round": np.int64(checkpoint.round),
        "digest": np.array(checkpoint.digest),
        **{_STATE + name: vector for name, vector in checkpoint.state.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        raise EngineError(
            f"the checkpoint of round {checkpoint.round} could not be written ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then resume.",
        ) from None
    return path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep ``folder`` for this process alone, while the block lasts.

    The operating system lets go of it when the process ends, however it ends.

    Raises:
      EngineError: Another process runs the study, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise EngineError(
            f"{folder} cannot be used ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then resume.",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(
                f"another process runs the study in {folder.name[:12]}.",
                remedy="Let it go on, or end it first: two would spend each other's rounds.",
            ) from None
        yield


def load(path: Path) -> Checkpoint:
    """Read one checkpoint; never unpickles.

    Raises:
      EngineError: The file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Checkpoint(
                digest=str(stored["digest"]),
                round=int(stored["round"]),
                model=np.asarray(stored["model"], dtype=np.float32),
                state={
                    name.removeprefix(_STATE): np.asarray(stored[name], dtype=np.float32)
                    for name in stored.files
                    if name.startswith(_STATE)
                },
            )
    except Exception as error:  # noqa: BLE001 - zipfile and numpy raise many kinds
        raise EngineError(
            f"{path.name} is damaged ({type(error).__name__}).",
            remedy="Delete it; the study resumes from the checkpoint before it.",
        ) from None


def latest(folder: Path, *, digest: str) -> Checkpoint | None:
    """Return the newest checkpoint of the study, or ``None`` when there is none.

    Raises:
      EngineError: The newest checkpoint is damaged or belongs to another study.
    """
    rounds = sorted(path for path in folder.glob("round-*.npz") if _FILE.fullmatch(path.name))
    if not rounds:
        return None
    checkpoint = load(rounds[-1])
    if checkpoint.digest != digest:
        raise EngineError(
            f"{folder} holds a run of another study ({checkpoint.digest[:12]}…).",
            remedy="Resume with the study of that run, or choose another folder.",
        )
    return checkpoint
