"""Flower's grid on one side, a study's rounds on the other: order, gather, admit, record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

from flwr.serverapp import Grid

from septum.errors import EngineError
from septum.models import Vector
from septum.signing import SigningKey
from septum.study import Study
from septum.wire import (
    Instruction,
    Release,
)
from septum_server import checkpoint, inflation, noise_score, rounds
from septum_server.admission import share
from septum_server.arrivals import Arrivals, Arrived
from septum_server.asking import Asking
from septum_server.clock import SYSTEM, Clock
from septum_server.limits import answer_bytes
from septum_server.nodes import sites_by_key, sites_of
from septum_server.remedies import line
from septum_server.rounds import RoundRecord
from septum_server.tally import Names, Part, Tally
from septum_strategies import Contribution, advance

Watcher = Callable[[RoundRecord, Vector, Iterable[Release]], None]
"""Told of each finished round: its record, the new model, and the releases, read once each."""

_SHORTEST_S: Final = 0.05
_PATIENCE: Final = 0.03  # a poll waits this share of the round so far, so it costs no more of it
_LONGEST_S: Final = 2.0
_EACH_S: Final = 0.05  # a SuperLink answers some forty requests a second, mostly hospitals'
_LOOK_S: Final = 3.0  # between two looks at who is connected; SuperNodes poll at the same pace
_ARRIVALS: Final = "arrivals"


class RoundLoop:
    """Runs a study's rounds: order, gather, admit, aggregate, record, checkpoint.

    Guarantees:
      - Each site contributes at most once a round, and only what its key signed.
      - A round with fewer than ``minimum_sites`` contributions leaves the model
        as it was; it is asked again if the study says so, and then ends the run
        with an error. It is never called success.
      - Record and checkpoint are on disk before the next round begins.
      - Who connects late, or comes back after a crash, is asked while the round lasts.
      - Where the study knows the hospitals' node keys, no other node is sent anything.

    Args:
      study: The study.
      folder: Where records and checkpoints go.
      key: The coordinator's; None for a study that nobody signs.
      watch: Told of each round.
      clock: Time; tests pass another.
    """

    def __init__(
        self,
        study: Study,
        *,
        folder: Path,
        key: SigningKey | None,
        watch: Watcher,
        state: Mapping[str, Vector] = MappingProxyType({}),
        clock: Clock = SYSTEM,
    ) -> None:
        self._study = study
        self._folder = folder
        self._key = key
        self._watch = watch
        self._state = state
        self._clock = clock
        self._names = Names(study)
        self._keys = sites_by_key(study)
        self._started = clock.now()
        self._before = {entry.round: entry for entry in rounds.read(folder)}
        self._last: dict[str, Arrived] = {}
        self._kept: Arrivals | None = None
        self._allowance: inflation.Allowance | None = None

    def run(self, grid: Grid, *, model: Vector, done: int) -> Vector:
        """Run what is left of the study after ``done`` rounds and return the last model.

        Raises:
          EngineError: A round stayed below the quorum, or the disk is full.
        """
        Arrivals(folder=self._folder / _ARRIVALS).drop()  # of a run that was killed
        with inflation.at_most(answer_bytes(len(model))) as self._allowance:
            model = self._rounds(grid, model, done)
        if self._kept:
            self._kept.drop()
        Arrivals(folder=self._folder / _ARRIVALS).drop()
        return model

    def _rounds(self, grid: Grid, model: Vector, done: int) -> Vector:
        policy = self._study.participation
        tries = 1 + (policy.retries if policy.dropout == "retry" else 0)
        for number in range(done + 1, self._study.rounds + 1):
            for left in reversed(range(tries)):
                tally = self.gather(grid, self.order(number, model))
                closed = self.close(tally, model, last=not left)
                if closed is not None:
                    model = closed
                    break
        return model

    def order(self, number: int, model: Vector) -> Instruction:
        """Return the signed instruction of a round; its deadline begins now.

        Said again after a crash it has the same digest: nobody is charged again.
        """
        deadline = int(self._clock.now()) + self._study.participation.deadline_s
        order = Instruction(study=self._study.digest, round=number, model=model, deadline=deadline)
        return order if self._key is None else order.signed(self._key)

    def tally(self, order: Instruction) -> Tally:
        """Return the count of the answers to ``order``, with nothing in it yet."""
        folder = self._folder / _ARRIVALS / f"{order.round:05d}"
        return Tally(self._study, order, names=self._names, arrivals=Arrivals(folder=folder))

    def gather(self, grid: Grid, order: Instruction) -> Tally:
        """Ask every node of the study and count the answers until nothing more can come.

        That is: the deadline, or nobody silent and the quorum reached or out of reach.
        """
        tally = self.tally(order)
        tries = 1 + self._study.participation.retries
        asking = Asking(grid, order, tally, tries=tries, allowance=self._allowance)
        begun = self._clock.now()
        looked = float("-inf")
        while (now := self._clock.now()) <= order.deadline:
            if now - looked >= _LOOK_S or not asking.pending:
                looked = now
                asking.ask(self._connected(grid), seconds=order.deadline - now)
            if not asking.pending and tally.settled:
                break
            asking.hear(over=lambda: self._clock.now() > order.deadline)
            if not asking.pending and tally.settled:
                continue  # all may be said: only who connected meanwhile is still to be asked
            pause = min(_LONGEST_S, _SHORTEST_S + _PATIENCE * (now - begun))
            self._clock.sleep(max(pause, _EACH_S * len(asking.pending)))
        self._started = begun
        return tally

    def close(self, tally: Tally, model: Vector, *, last: bool = True) -> Vector | None:
        """Record the round and return the next global model; None to ask once more.

        Raises:
          EngineError: Below the quorum, and ``last``.
        """
        releases, order = tally.releases, tally.instruction
        entry, before = self._record(tally), self._before.get(tally.instruction.round)
        least = self._study.strategy.minimum_sites
        if len(releases) < least:
            # What one hospital says must not waste what the others spent: they answer the same
            # order again at no charge. A round is given up once the loss is said again to a
            # later run: a person was in between, who was told to ask. Who still trains for a run
            # that was killed does not say so: the repeated order waits there for the release.
            lost = entry.lost & before.lost if before else frozenset()
            hopeless = len(entry.asked) - len(lost) < least
            if not (last or hopeless):
                tally.arrivals.drop()  # the same come again
                return None
            # Go on with the next round. Not after the last: that is the result.
            skipped = hopeless and order.round < self._study.rounds
            if skipped:
                self._save(order.round, model)
            raise _below(entry, least, skipped=skipped)
        admitted = [releases[site] for site in sorted(releases)]
        parts = [
            Part(
                arrived=each,
                patients=self._study.participant(each.site).patients,
                share=share(each.stated, study=self._study, parameters=len(model)),
            )
            for each in admitted
        ]
        moved, self._state = advance(
            self._study.strategy,
            model,
            # A strategy asks a contribution for no more than a part says, whatever keeps it.
            cast(Sequence[Contribution], parts),
            state=self._state,
            round=entry.round,
        )
        self._save(entry.round, moved)
        self._watch(entry, moved, (each.whole() for each in admitted))
        if self._kept:
            self._kept.drop()
        # The next round's releases are compared with these.
        self._last, self._kept = dict(releases), tally.arrivals
        return moved

    def _record(self, tally: Tally) -> RoundRecord:
        releases = tally.releases
        asked = tuple(site.name for site in self._study.sites)
        silent = {
            site: rounds.NOT_CONNECTED if site in tally.absent else rounds.NO_ANSWER
            for site in asked
            if site not in releases and site not in tally.refused
        }
        scores, alarms = noise_score.scores(
            releases, study=self._study, previous=self._last, looks=tally.looks
        )
        size = len(tally.instruction.model)
        for site, release in releases.items():
            part = share(release.stated, study=self._study, parameters=size)
            scores[site] |= {} if part == 1.0 else {"share": round(part, 4)}
        entry = RoundRecord(
            round=tally.instruction.round,
            asked=asked,
            answered=tuple(sorted(releases)),
            refused=tally.refused | silent,
            heads={site: release.ledger_head for site, release in sorted(releases.items())},
            strays=tuple(tally.strays),
            scores=scores,
            alarms=alarms,
            seconds=self._clock.now() - self._started,
            at=datetime.fromtimestamp(self._clock.now(), tz=UTC).isoformat(timespec="seconds"),
        )
        entry = replace(entry, said=line(entry))
        rounds.record(self._folder, entry)
        return entry

    def _connected(self, grid: Grid) -> dict[int, str]:
        """Return the nodes to ask; where keys are known, those of this study's sites alone.

        Each with when it connected last, where Flower tells.
        """
        if not self._keys:
            return dict.fromkeys(sorted(grid.get_node_ids()), "")
        nodes = {node.node_id: node for node in grid.get_nodes()}
        found = sites_of([(at, node.public_key) for at, node in nodes.items()], self._keys)
        for at, site in found.items():
            self._names.learn(at, site)
        return {at: nodes[at].last_activated_at for at in sorted(found)}

    def _save(self, number: int, model: Vector) -> None:
        done = checkpoint.Checkpoint(
            digest=self._study.digest, round=number, model=model, state=self._state
        )
        checkpoint.save(self._folder, done)


def _below(entry: RoundRecord, least: int, *, skipped: bool) -> EngineError:
    """Return the error of a round below its quorum, with what is to be done."""
    reasons = ", ".join(f"{site}: {why}" for site, why in sorted(entry.refused.items()))
    remedy = "Clear the codes with the sites (docs/codes.md), then resume."
    if skipped:
        remedy = "The round is given up, with the model as it was: resume, and the next one begins."
    elif entry.lost:
        remedy = (
            f"Ask {', '.join(sorted(entry.lost))} whether round {entry.round} is lost there, then "
            "resume: it is asked again, at no charge to whoever answered."
        )
    return EngineError(
        f"round {entry.round} has {len(entry.answered)} contributions; the study needs {least} "
        f"({reasons}).",
        remedy=remedy,
    )
