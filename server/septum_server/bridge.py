"""Flower's Strategy hooks on one side, a Septum strategy on the other."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from septum.errors import AdmissionError, Code, EngineError, WireError
from septum.models import Vector
from septum.study import Study
from septum.wire import (
    Instruction,
    Release,
    decode_refusal,
    decode_release,
    encode_instruction,
)
from septum_server import checkpoint, noise_score, rounds
from septum_server.admission import admit
from septum_server.rounds import RoundRecord
from septum_strategies import Contribution, advance

Watcher = Callable[[RoundRecord, Vector, tuple[Release, ...]], None]
"""Told of each finished round: its record, the new global model, the admitted releases."""


class SeptumStrategy(Strategy):
    """Runs a study's rounds: instruct, admit, aggregate, record, checkpoint.

    Guarantees:
      - Each site contributes at most once a round.
      - A round with fewer than ``minimum_sites`` contributions leaves the model
        as it was and ends the run with an error; it is never called success.
      - Record and checkpoint are on disk before the next round begins.

    Args:
      study: The study.
      folder: Where records and checkpoints go.
      done: Rounds already done, when resuming.
      watch: Told of each round.
      state: What the strategy carried out of the last round, when resuming.
    """

    def __init__(
        self,
        study: Study,
        *,
        folder: Path,
        done: int,
        watch: Watcher,
        state: Mapping[str, Vector] = MappingProxyType({}),
    ) -> None:
        self._study = study
        self._folder = folder
        self._done = done
        self._watch = watch
        self._state = state
        self._names: dict[int, str] = {}
        self._last: dict[str, Vector] = {}
        self._instruction: Instruction | None = None
        self._started = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the same instruction for every connected site."""
        del config  # nothing of a run config reaches a hospital
        self._started = time.monotonic()
        self._instruction = Instruction(
            study=self._study.digest, round=self._done + server_round, model=unpack(arrays)
        )
        content = encode_instruction(self._instruction)
        return [
            Message(content, dst_node_id=node, message_type="train", group_id=str(server_round))
            for node in sorted(grid.get_node_ids())
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next global model; the metrics that leave are in the round record."""
        del server_round  # counts from one after a resume; the instruction knows the round
        instruction = self._instruction
        if instruction is None:
            raise EngineError("a round was aggregated before it was configured.")
        releases, refused, strays = self._sort(replies, instruction)
        asked = tuple(site.name for site in self._study.sites)
        silent = {s: rounds.NO_ANSWER for s in asked if s not in releases and s not in refused}
        scores, alarms = noise_score.scores(releases, study=self._study, previous=self._last)
        self._last = {site: release.update for site, release in releases.items()}
        entry = RoundRecord(
            round=instruction.round,
            asked=asked,
            answered=tuple(sorted(releases)),
            refused=refused | silent,
            heads={site: release.ledger_head for site, release in sorted(releases.items())},
            strays=tuple(strays),
            scores=scores,
            alarms=alarms,
            seconds=time.monotonic() - self._started,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        rounds.record(self._folder, entry)
        least = self._study.strategy.minimum_sites
        if len(releases) < least:
            lost = sum(why == Code.ROUND_ALREADY_CHARGED for why in entry.refused.values())
            if len(asked) - lost < least:
                # No retry can reach the minimum: go on from the same model with the next round.
                self._save(entry.round, instruction.model)
            reasons = ", ".join(f"{site}: {why}" for site, why in sorted(entry.refused.items()))
            raise EngineError(
                f"round {entry.round} has {len(releases)} contributions; the study needs {least} "
                f"({reasons}).",
                remedy="Clear the codes with the sites (docs/codes.md), then resume.",
            )
        admitted = tuple(releases[site] for site in sorted(releases))
        model, self._state = advance(
            self._study.strategy,
            instruction.model,
            [
                Contribution(
                    site=release.site,
                    update=release.update,
                    patients=self._study.participant(release.site).patients,
                )
                for release in admitted
            ],
            state=self._state,
            round=entry.round,
        )
        self._save(entry.round, model)
        self._watch(entry, model, admitted)
        return pack(model), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nothing: test scores are statistics of patients and stay at the sites."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing; see :meth:`configure_evaluate`."""
        del server_round, replies
        return None

    def summary(self) -> None:
        """Say nothing: the round record is the summary."""

    def _sort(
        self, replies: Iterable[Message], instruction: Instruction
    ) -> tuple[dict[str, Release], dict[str, str], list[str]]:
        releases: dict[str, Release] = {}
        refused: dict[str, str] = {}
        strays: list[str] = []
        known = {site.name for site in self._study.sites}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                if reply.has_error():
                    # Flower's error text may quote a hospital's exception: only its number is kept.
                    raise AdmissionError(f"FLOWER_{reply.error.code}: no answer was made.")
                refusal = decode_refusal(reply.content)
                if refusal is not None:
                    code, site = refusal
                    self._name(node, site, known)
                    refused[site] = code.value
                    continue
                release = decode_release(reply.content)
                self._name(node, release.site, known)
                if release.site in releases:
                    raise AdmissionError("DUPLICATE: the site answered twice.")
                admit(release, study=self._study, instruction=instruction)
                releases[release.site] = release
            except (AdmissionError, WireError) as error:
                reason = (
                    error.message.split(":")[0] if isinstance(error, AdmissionError) else "FORM"
                )
                name = self._names.get(node)
                if name is None or name in releases:
                    strays.append(reason)
                else:
                    refused[name] = reason
        return releases, {s: why for s, why in refused.items() if s not in releases}, strays

    def _save(self, round: int, model: Vector) -> None:
        done = checkpoint.Checkpoint(
            digest=self._study.digest, round=round, model=model, state=self._state
        )
        checkpoint.save(self._folder, done)

    def _name(self, node: int, site: str, known: set[str]) -> None:
        if site not in known:
            raise AdmissionError("UNKNOWN_SITE: the answer names a site outside the study.")
        if self._names.setdefault(node, site) != site:
            raise AdmissionError("OTHER_SITE: the node spoke for another site before.")
        if any(other != node and name == site for other, name in self._names.items()):
            del self._names[node]
            raise AdmissionError("OTHER_NODE: another node speaks for this site.")


def pack(model: Vector) -> ArrayRecord:
    """Return the model as Flower's server loop passes it between rounds."""
    return ArrayRecord({"model": Array(np.ascontiguousarray(model, dtype=np.float32))})


def unpack(arrays: ArrayRecord) -> Vector:
    """Return the vector that :func:`pack` wrapped."""
    return np.asarray(arrays["model"].numpy(), dtype=np.float32)
