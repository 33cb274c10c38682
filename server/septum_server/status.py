"""How a study stands: who was asked, who answered, who did not and why. Nothing is rounded up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from septum.study import Study
from septum_server.rounds import RoundRecord

_DONE: Final = "complete"
_IDLE: Final = "not running"
_SHORT: Final = 12


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A study at one moment.

    Args:
      study: Its name.
      digest: Its digest.
      state: ``not started``, ``running``, ``complete``, or how the last run ended.
      rounds: Finished rounds, of ``of`` rounds.
      of: Rounds of the study.
      sites: By site: ``online``, ``offline`` or ``not registered``; empty if the
        server does not answer.
      table: One row a round.
      remedy: What to do next, or empty.
    """

    study: str
    digest: str
    state: str
    rounds: int
    of: int
    sites: dict[str, str]
    table: tuple["Row", ...]
    remedy: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state == _DONE or bool(self.remedy)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One round: numbers, then each site that did not contribute, with its reason.

    ``said`` is the round record's line for people, with the remedy.
    """

    round: int
    asked: int
    answered: int
    counted: bool
    missing: tuple[tuple[str, str], ...]
    seconds: float
    said: str = ""


def standing(
    study: Study,
    records: Sequence[RoundRecord],
    *,
    done: int | None,
    run: str | None,
    online: dict[str, bool] | None,
) -> Standing:
    """Return how ``study`` stands.

    Args:
      study: The study.
      records: Of its rounds, by :func:`septum_server.rounds.read`.
      done: Rounds up to the newest checkpoint; None if there is none.
      run: Status of its latest run, by :class:`septum_server.control.Run`; None if
        there is none, or nothing answers.
      online: Whether each registered site is connected; None if nothing answers.
    """
    quorum = study.strategy.minimum_sites
    finished = done or 0
    state, remedy = _state(study, finished=finished, run=run, started=done is not None)
    return Standing(
        study=study.name,
        digest=study.digest,
        state=state,
        rounds=finished,
        of=study.rounds,
        sites={
            site.name: "not registered"
            if site.name not in online
            else ("online" if online[site.name] else "offline")
            for site in study.sites
        }
        if online is not None
        else {},
        table=tuple(
            Row(
                round=record.round,
                asked=len(record.asked),
                answered=len(record.answered),
                counted=len(record.answered) >= quorum,
                missing=tuple(sorted(record.refused.items())),
                seconds=record.seconds,
                said=record.said,
            )
            for record in records
        ),
        remedy=remedy,
    )


def _state(study: Study, *, finished: int, run: str | None, started: bool) -> tuple[str, str]:
    """Return the state in a word or two, and the remedy."""
    short = study.digest[:_SHORT]
    if finished >= study.rounds:
        return _DONE, ""
    if run is None:
        return ("interrupted" if started else "not started"), (
            f"septum study {'resume' if started else 'start'} {short}"
        )
    if not run.startswith("finished"):
        return run, ""
    how = run.partition(":")[2] or "ended"
    return f"{_IDLE}: the last run {_HOW.get(how, how)}", f"septum study resume {short}"


_HOW: Final = {
    "completed": "ended before the last round",
    "failed": "failed",
    "stopped": "was stopped",
}
