"""A whole study on one machine: from DICOM folders to a record of what was found."""

import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from septum.accounting import epsilon
from septum.errors import DataError, EngineError
from septum.models import Vector
from septum.study import Study
from septum.wire import Release
from septum_bench import contract, engine, hospitals, observed
from septum_bench.phantoms import write_hospitals
from septum_bench.plan import Plan
from septum_bench.seeded import SeededSource
from septum_client.cohort import Cohort
from septum_client.site import Site, write_durably
from septum_server import checkpoint
from septum_server.app import server_app
from septum_server.rounds import RoundRecord

_FREE_BYTES = 200 << 20


class Reporter(Protocol):
    """Shows a simulation's progress."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` parts begins."""

    def advance(self, text: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """One more part is done, or ``done`` of ``total`` are; ``text`` says which."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished federation and everything the report is made from."""

    folder: Path
    plan: Plan
    study: Study
    sites: dict[str, Site]
    cohorts: dict[str, Cohort]
    seconds: dict[str, float]

    @property
    def source(self) -> SeededSource:
        """The simulation's randomness."""
        return SeededSource(self.plan.seed)

    def model(self, round: int) -> Vector:
        """Return the model published after ``round`` rounds; 0 is the initial one."""
        return checkpoint.load(self.folder / "server" / f"round-{round:05d}.npz").published

    def first_release(self, site: str) -> Vector | None:
        """Return what ``site`` released in round 1, float32 (params,), or None if it did not."""
        path = observed.file_of(self.folder, site, 1)
        return observed.read(path) if path.exists() else None


def begin(plan: Plan, folder: Path, *, resume: bool, given: Collection[str] = ()) -> Plan:
    """Return the plan to follow in ``folder``, which is created or resumed.

    Args:
      plan: What is asked for.
      folder: The run's folder.
      resume: Go on with the run in it.
      given: Names of the options that were really given: on resuming, they
        must be those of the first start.

    Raises:
      EngineError: The folder holds another run, or nothing to resume.
      DataError: The disk is full or the folder cannot be written.
    """
    stored = folder / "plan.json"
    if resume:
        if not stored.exists():
            raise EngineError(
                f"{folder} holds no run to resume.", remedy="Leave out --resume to start one."
            )
        try:
            first = Plan.model_validate_json(stored.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise EngineError(
                f"{stored} cannot be read as the plan of a run.",
                remedy="Restore it, or start a new run in another --out.",
            ) from None
        return _resumed(plan, first, given)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EngineError(
            f"{folder} is not an empty folder.",
            remedy="Add --resume to go on with the run in it, or choose another --out.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made ({error.strerror}).", remedy="Choose another --out."
        ) from None
    if free < _FREE_BYTES:
        raise DataError(
            f"{folder} has {free >> 20} MiB free; a run needs at least {_FREE_BYTES >> 20} MiB.",
            remedy="Free disk space, or choose another --out.",
        )
    write_durably(stored, plan.model_dump_json(indent=2).encode())
    return plan


def _resumed(asked: Plan, first: Plan, given: Collection[str]) -> Plan:
    free = {"engine", "workers"}  # they change no result
    changed = [
        name
        for name in Plan.model_fields
        if name in given and name not in free and getattr(asked, name) != getattr(first, name)
    ]
    if changed:
        raise EngineError(
            f"a run is resumed with its first options, and {', '.join(changed)} differs.",
            remedy="Leave the option out, or start a new run in another --out.",
        )
    return first.model_copy(update={n: getattr(asked, n) for n in free if n in given})


def federate(plan: Plan, folder: Path, *, reporter: Reporter) -> Run:
    """Run the study of ``plan`` in ``folder`` up to its last round.

    Whatever an earlier, interrupted call finished is kept and not done again.

    Raises:
      SeptumError: Any input that cannot be used, a budget that does not pay for
        the rounds, or a round that could not be completed.
    """
    seconds: dict[str, float] = {}
    noise = contract.affordable_noise(plan)
    with timed(seconds, "hospitals"):
        folders = _folders(plan, folder, reporter)
    with timed(seconds, "ingest"):
        spec = hospitals.spec_of(folders, plan)
        reporter.stage("Ingest", len(folders))
        counts: dict[str, tuple[int, int]] = {}

        def ingested(name: str, done: int, total: int) -> None:
            counts[name] = (done, total)
            reporter.advance(
                f"{name}: {done}/{total} files",
                done=len(counts) - (done < total),
                total=len(folders),
            )

        sites = hospitals.admit(
            folders, into=folder / "sites", spec=spec, plan=plan, progress=ingested
        )
    cohorts = {name: Cohort.open(site.cohort_path) for name, site in sites.items()}
    signed = contract.signed_study(plan, folder, cohorts, noise=noise)
    for site in sites.values():
        site.approve(signed, by="the simulation")
    study = signed.study
    run = Run(folder=folder, plan=plan, study=study, sites=sites, cohorts=cohorts, seconds=seconds)
    with timed(seconds, "federation"):
        _rounds(run, reporter)
    return run


def _folders(plan: Plan, folder: Path, reporter: Reporter) -> list[Path]:
    if plan.data is not None:
        return hospitals.sources(plan.data)
    target = folder / "dicom"
    if not target.exists():
        reporter.stage("Phantoms", plan.patients)
        write_hospitals(
            target,
            hospitals.phantoms_of(plan),
            workers=plan.workers,
            progress=lambda done, total: reporter.advance(
                f"{done}/{total} films", done=done, total=total
            ),
        )
    return hospitals.sources(target)


def _rounds(run: Run, reporter: Reporter) -> None:
    study = run.study
    reporter.stage("Federation", study.rounds)
    charge = study.mechanism(study.sites[0].name).charge()

    def watch(record: RoundRecord, model: Vector, releases: Iterable[Release]) -> None:
        del model
        for release in releases:
            observed.keep(run.folder, release)
        spent = epsilon([charge] * record.round, delta=study.privacy.delta)
        absent = "" if record.complete else f", absent: {', '.join(sorted(record.refused))}"
        absent += "".join(f", alarm: {alarm}" for alarm in record.alarms)
        reporter.advance(
            f"round {record.round}/{study.rounds}, {len(record.answered)}/{len(record.asked)} "
            f"sites{absent}, ε {spent:.2f} of {run.plan.epsilon:g}",
            done=record.round,
            total=study.rounds,
        )

    server = server_app(
        study,
        folder=run.folder / "server",
        resume=True,
        watch=watch,
        key=hospitals.coordinator_key(run.plan.seed),
    )
    engine.run(
        server,
        [run.sites[site.name].folder for site in study.sites],
        engine=run.plan.engine,
        workers=run.plan.workers,
        source=run.source,
        home=run.folder / "flower",
    )


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note under ``name`` how many seconds the block took."""
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
