"""``septum demo hospitals``: a coordinator and hospitals on phantoms, with real processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from septum.errors import ConfigError, DataError, EngineError
from septum_bench import deployment as deploy
from septum_bench import hospitals
from septum_bench.deployment import Deployment
from septum_bench.phantoms import PhantomPlan, write_hospitals
from septum_bench.simulate import Reporter
from septum_client.cohort import Cohort, CohortSpec, Split
from septum_client.ingest import Terms, ingest
from septum_client.policy import Policy
from septum_client.rules import Intake
from septum_client.site import Site
from septum_server import checkpoint
from septum_server.draft import Wishes, fields_of

_SMALLEST: Final = 10
_CONNECT_S: Final = 300.0
_ROUND_S: Final = 600
_IMAGE_SIZE: Final = 64


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What is demonstrated.

    Args:
      sites: Hospitals; each costs about 0.5 GiB of memory while it trains.
      patients: In all.
      rounds: Rounds.
      epsilon: What the study may cost a patient.
      seed: Of the phantoms alone: keys and noise are the system's, as in a hospital.
      workers: Processes that write and read images.
    """

    sites: int = 3
    patients: int = 120
    rounds: int = 3
    epsilon: float = 3.0
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.patients < 30 * self.sites or not 1 <= self.sites <= 16:
            raise ConfigError(
                f"{self.patients} patients in {self.sites} hospitals were asked for.",
                remedy="Ask for 1 to 16 hospitals, and 30 patients for each.",
            )


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What was shown.

    Args:
      model: The last model's file.
      rounds: One line for each round.
      charged: Rounds that each hospital's ledger was charged.
      seconds: From the first process to the last model.
    """

    model: Path
    rounds: tuple[str, ...]
    charged: dict[str, int]
    seconds: float


def demonstrate(plan: DemoPlan, folder: Path, *, reporter: Reporter) -> DemoResult:
    """Take phantoms to a trained model between real processes, and end them all.

    Args:
      plan: What to show.
      folder: New folder for both sides.
      reporter: Shows progress.

    Raises:
      DataError: The folder is not empty.
      SeptumError: A side refused, or a round was not completed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not an empty folder.", remedy="Choose another --out.")
    sites = _hospitals(plan, folder, reporter)
    reporter.stage("Contract", 3)
    coordinator = deploy.make_coordinator(folder / "coordinator")
    reporter.advance("coordinator: keys and certificates")
    cards = [deploy.card_of(site, patients=_declared(site)) for site in sites.values()]
    spec = Cohort.open(next(iter(sites.values())).cohort_path).spec
    fields = fields_of(_wishes(plan, spec), cards)
    made = deploy.agree(coordinator, sites, fields, folder=folder)
    reporter.advance("study signed; every hospital joined, compared the fingerprint, approved")
    began = time.monotonic()
    with deploy.running(made, folder):
        _run(made, reporter)
        seconds = time.monotonic() - began
        reporter.stage("Shutdown", 1)
    reporter.advance("every process has ended")
    last = checkpoint.latest(made.folder, digest=made.digest)
    if last is None or last.round < plan.rounds:
        raise EngineError("the study ended without its last model.", remedy="Look into logs/.")
    return DemoResult(
        model=made.folder / f"round-{last.round:05d}.npz",
        rounds=tuple(entry.said for entry in made.rounds()),
        charged=deploy.audited(made),
        seconds=seconds,
    )


def _run(made: Deployment, reporter: Reporter) -> None:
    everyone = sorted(made.sites)
    reporter.stage("Processes", len(everyone))

    there: list[str] = []

    def all_there() -> bool:
        found = deploy.connected(made)
        if found != there:
            there[:] = found
            reporter.advance(f"connected: {', '.join(found)}", done=len(found))
        return found == everyone

    deploy.until(all_there, seconds=_CONNECT_S, what="the connection of every hospital")
    rounds = made.signed.study.rounds
    reporter.stage("Federation", rounds)
    deploy.start(made)
    deploy.until(
        _finished(made, reporter), seconds=rounds * _ROUND_S, what="the study's last round"
    )


def _finished(made: Deployment, reporter: Reporter) -> Callable[[], bool]:
    seen = 0

    def look() -> bool:
        nonlocal seen
        found = made.rounds()
        if len(found) > seen:
            seen = len(found)
            reporter.advance(found[-1].said, done=seen)
        how = deploy.ended(made)
        if how and not how.startswith("finished:completed"):
            raise EngineError(f"the run ended: {how}.", remedy="Look into the coordinator's logs/.")
        return bool(how)

    return look


def _hospitals(plan: DemoPlan, folder: Path, reporter: Reporter) -> dict[str, Site]:
    reporter.stage("Phantoms", plan.patients)
    exports = write_hospitals(
        folder / "exports",
        PhantomPlan(sites=plan.sites, patients=plan.patients, seed=plan.seed),
        workers=plan.workers,
        progress=lambda done, total: reporter.advance(
            f"{done}/{total} films", done=done, total=total
        ),
    )
    reporter.stage("Hospitals", len(exports))
    spec = CohortSpec(image_size=_IMAGE_SIZE, labels=hospitals.labels_of(exports, ()))
    made: dict[str, Site] = {}
    for export in exports:
        reporter.advance(f"{export.name}: site, policy, cohort", done=len(made))
        made[export.name] = _hospital(export, folder / "sites" / export.name, spec, plan)
    return made


def _hospital(export: Path, home: Path, spec: CohortSpec, plan: DemoPlan) -> Site:
    policy = Policy(
        epsilon_per_study=plan.epsilon,
        epsilon_per_year=max(plan.epsilon, 4.0),
        epsilon_total=max(plan.epsilon, 4.0),
        minimum_patients=_SMALLEST,
        # Phantoms say that they are synthetic, and carry no text.
        intake=Intake(burned_in_text="header", synthetic="include"),
    )
    site = Site.create(home, name=export.name, policy=policy)
    ingest(
        export,
        site.cohort_path,
        spec=spec,
        key=site.key,
        terms=Terms(rules=policy.intake),
        workers=plan.workers,
    )
    hospitals.permit_everybody(site)
    return site


def _declared(site: Site) -> int:
    """Return the training patients to declare, rounded down: a number that tells of nobody."""
    patients = len(Cohort.open(site.cohort_path).patients(Split.TRAIN))
    return max(_SMALLEST, patients // _SMALLEST * _SMALLEST)


def _wishes(plan: DemoPlan, spec: CohortSpec) -> Wishes:
    return Wishes(
        name="demonstration",
        purpose="Shows on one machine what hospitals and their coordinator do; phantoms only.",
        task=spec.task,
        labels=spec.labels,
        image_size=spec.image_size,
        epsilon=plan.epsilon,
        delta=1e-4,
        rounds=plan.rounds,
        deadline_s=_ROUND_S,
    )
