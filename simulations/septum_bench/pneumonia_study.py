"""One seed of the PneumoniaMNIST benchmark: the same hospitals at each epsilon, scored alike."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from septum.accounting import epsilon as epsilon_of
from septum.errors import DataError, EngineError
from septum.models import Vector
from septum_bench import baselines
from septum_bench.engine import threads
from septum_bench.evaluate import Tested
from septum_bench.plan import Engine, Plan
from septum_bench.radiographs import LABEL, Labelled, write_radiographs
from septum_bench.simulate import Reporter, Run, begin, federate
from septum_client.budget import Ledger
from septum_client.cohort import Split

# Chosen once on the published validation images (benchmarks/pneumonia_search.py), seed 100.
DELTA: Final = 1e-4
IMAGE_SIZE: Final = 28
ROUNDS: Final = 16
STEPS_PER_ROUND: Final = 5
SAMPLING_RATE: Final = 0.2
MAX_GRAD_NORM: Final = 1.0
LEARNING_RATE: Final = 0.5
PLAIN_ROUNDS: Final = 12  # rounds of one epoch, and epochs of pooled training, without privacy


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of training with one seed, scored on the published test images.

    Attributes:
      training: What was done, in words; equal for all seeds.
      seed: Of the split into hospitals, the scanners, sampling and noise.
      epsilon: Limit of each hospital's policy; ``None`` without privacy.
      spent: Largest epsilon in a hospital's ledger; ``None`` without privacy.
      auc: Area under the ROC curve, pooled over the hospitals' test images.
      accuracy: At probability one half.
      seconds: Training, with ledgers and checkpoints where there are any; near 0 where
        an interrupted call had finished it.
    """

    training: str
    seed: int
    epsilon: float | None
    spent: float | None
    auc: float
    accuracy: float
    seconds: float


def plan_of(
    out: Path,
    *,
    sites: int,
    seed: int,
    epsilon: float,
    workers: int,
    engine: Engine = "local",
    **changes: object,
) -> Plan:
    """Return the simulation of one seed and one epsilon; ``changes`` replace its settings."""
    return Plan.check(**{
        "data": out / f"seed-{seed}" / "dicom",
        "sites": sites,
        "seed": seed,
        "labels": (LABEL,),
        "image_size": IMAGE_SIZE,
        "rounds": ROUNDS,
        "steps_per_round": STEPS_PER_ROUND,
        "epsilon": float(epsilon),
        "delta": DELTA,
        "max_grad_norm": MAX_GRAD_NORM,
        "sampling_rate": SAMPLING_RATE,
        "learning_rate": LEARNING_RATE,
        "images_per_patient": 1,
        "workers": workers,
        "engine": engine,
        "baselines": False,
        "attack": False,
    } | changes)  # fmt: skip


def study_rows(
    home: Path,
    plans: Sequence[Plan],
    *,
    learn: Labelled,
    held_out: Labelled,
    reporter: Reporter,
    plain: bool = True,
) -> list[Row]:
    """Run the simulations of one seed on the same hospitals and score them.

    Args:
      home: Where the seed's hospitals and runs go.
      plans: From :func:`plan_of`, all of one seed.
      learn: Images to train on.
      held_out: Images to score on.
      reporter: Shows progress.
      plain: Also train without privacy, pooled and federated.
    """
    first: Run | None = None
    rows = []
    _hospitals(plans[0], learn=learn, held_out=held_out, reporter=reporter)
    for number, plan in enumerate(plans):
        folder = home / f"run-{number + 1}-epsilon-{plan.epsilon:g}"
        resume = (folder / "plan.json").exists()
        if begin(plan, folder, resume=resume) != plan:
            raise EngineError(
                f"{folder} holds a run with other settings.", remedy="Choose another --out."
            )
        if first is not None:
            _share_cohorts(first.folder, folder)
        run = federate(plan, folder, reporter=reporter)
        if first is None:
            first = run
            _require_split(run, learn=learn, held_out=held_out)
        rows.append(
            _row(
                run,
                run.model(run.study.rounds),
                training=f"federated, ε = {plan.epsilon:g}",
                spent=_spent(run),
                seconds=run.seconds["federation"],
            )
        )
    if plain and first is not None:
        rows += _plain(first, reporter)
    return rows


def _hospitals(plan: Plan, *, learn: Labelled, held_out: Labelled, reporter: Reporter) -> None:
    target = plan.data
    if target is None or target.exists():
        return
    reporter.stage("DICOM", len(learn.labels) + len(held_out.labels))
    write_radiographs(
        target,
        learn=learn,
        held_out=held_out,
        sites=plan.sites,
        seed=plan.seed,
        progress=lambda done, total: reporter.advance(
            f"{done}/{total} films", done=done, total=total
        ),
    )


def _share_cohorts(source: Path, folder: Path) -> None:
    """Give a run the cohorts of another one of the same hospitals, instead of ingesting again."""
    for cohort in (source / "sites").glob("*/cohort"):
        target = folder / "sites" / cohort.parent.name / "cohort"
        if not target.exists():
            partial = target.with_name("cohort.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(cohort, partial, copy_function=os.link)  # cohorts are only replaced
            partial.rename(target)


def _require_split(run: Run, *, learn: Labelled, held_out: Labelled) -> None:
    found = {
        split: sum(len(cohort.patients(split)) for cohort in run.cohorts.values())
        for split in Split
    }
    if found != {Split.TRAIN: len(learn.labels), Split.TEST: len(held_out.labels)}:
        raise DataError(
            f"the hospitals hold {found[Split.TRAIN]} training and {found[Split.TEST]} test "
            f"images; the file has {len(learn.labels)} and {len(held_out.labels)}.",
            remedy="Some images could not be used, or the folder was altered: use a new --out.",
        )


def _spent(run: Run) -> float:
    return max(
        epsilon_of(Ledger(site.ledger_path).charges(run.study.digest), delta=run.plan.delta)
        for site in run.sites.values()
    )


def _plain(run: Run, reporter: Reporter) -> list[Row]:
    study, plan = run.study, run.plan
    reporter.stage("Without privacy", PLAIN_ROUNDS * (len(run.cohorts) + 1))
    start = time.monotonic()
    # One thread for pooled training too: its steps are too small to share, and waiting spins.
    with threads(plan.workers):
        federated = baselines.federated(
            study,
            run.cohorts,
            rounds=PLAIN_ROUNDS,
            epochs=1,
            seed=plan.seed,
            workers=plan.workers,
            progress=lambda: reporter.advance("federated"),
        )
        middle = time.monotonic()
        pooled = baselines.pooled(
            study,
            run.cohorts,
            epochs=PLAIN_ROUNDS,
            seed=plan.seed,
            progress=lambda: reporter.advance("pooled"),
        )
    end = time.monotonic()
    return [
        _row(run, federated, training="federated, no privacy", spent=None, seconds=middle - start),
        _row(run, pooled, training="pooled, no privacy", spent=None, seconds=end - middle),
    ]


def _row(run: Run, model: Vector, *, training: str, spent: float | None, seconds: float) -> Row:
    tested = Tested(run.study, run.cohorts, seed=run.plan.seed)
    auc = tested.auc(model)
    return Row(
        training=training,
        seed=run.plan.seed,
        epsilon=None if spent is None else run.plan.epsilon,
        spent=spent,
        auc=float("nan") if auc is None else auc,
        accuracy=tested.accuracy(model),
        seconds=seconds,
    )
