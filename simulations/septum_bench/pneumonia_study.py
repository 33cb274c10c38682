"""One seed of the PneumoniaMNIST benchmark: the same hospitals at each epsilon, scored alike."""

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from septum.accounting import epsilon as epsilon_of
from septum.errors import DataError, EngineError
from septum.models import Vector
from septum.recipes import RECIPES
from septum_bench import baselines, opacus_defaults, unprotected
from septum_bench.engine import threads
from septum_bench.evaluate import Tested
from septum_bench.plan import Engine, Plan
from septum_bench.radiographs import LABEL, Labelled, write_radiographs
from septum_bench.simulate import Reporter, Run, begin, federate
from septum_client.budget import Ledger
from septum_client.cohort import Split
from septum_client.site import write_durably

DELTA: Final = 1e-5
IMAGE_SIZE: Final = 28
RECIPE: Final = RECIPES["film-labels"]
ROUNDS: Final = RECIPE.rounds
POOLED_EPOCHS: Final = 12


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
        "model": RECIPE.model,
        "rounds": ROUNDS,
        "steps_per_round": RECIPE.steps_per_round,
        "epsilon": float(epsilon),
        "delta": DELTA,
        "max_grad_norm": RECIPE.max_grad_norm(epsilon),
        "sampling_rate": RECIPE.sampling_rate,
        **RECIPE.training.model_dump(include=set(Plan.model_fields) - {"proximal_mu"}),
        "images_per_patient": 1,
        "strategy": RECIPE.strategy.name,
        "server_learning_rate": RECIPE.strategy.learning_rate,
        "server_momentum": RECIPE.strategy.momentum,
        "ema": RECIPE.strategy.ema,
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
    defaults: bool = False,
) -> list[Row]:
    """Run the simulations of one seed on the same hospitals and score them.

    Args:
      home: Where the seed's hospitals and runs go.
      plans: From :func:`plan_of`, all of one seed.
      learn: Images to train on.
      held_out: Images to score on.
      reporter: Shows progress.
      plain: Also train without privacy: federated by the same recipe, and pooled.
      defaults: Also train by Opacus' example at each epsilon.
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
    if first is not None:
        run = first
        if plain:
            rows += _once(home / "plain.json", lambda: _plain(run, reporter))
        for epsilon in [plan.epsilon for plan in plans] if defaults else []:
            name = f"opacus-example-epsilon-{epsilon:g}.json"
            rows += _once(home / name, functools.partial(_defaults, run, epsilon, reporter))
    return rows


def _once(path: Path, make: Callable[[], list[Row]]) -> list[Row]:
    """Return rows that an earlier call kept at ``path``, or make and keep them."""
    if path.exists():
        return [Row(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    rows = make()
    write_durably(path, json.dumps([asdict(row) for row in rows]).encode())
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
    reporter.stage("Without privacy", study.rounds + POOLED_EPOCHS)
    start = time.monotonic()
    # One thread for pooled training too: its steps are too small to share, and waiting spins.
    with threads(plan.workers):
        federated = unprotected.same_recipe(
            study,
            run.cohorts,
            source=run.source,
            workers=plan.workers,
            progress=lambda: reporter.advance("federated"),
        )
        middle = time.monotonic()
        pooled = baselines.pooled(
            study,
            run.cohorts,
            epochs=POOLED_EPOCHS,
            seed=plan.seed,
            progress=lambda: reporter.advance("pooled"),
        )
    end = time.monotonic()
    return [
        _row(run, federated, training="federated, no privacy", spent=None, seconds=middle - start),
        _row(run, pooled, training="pooled, no privacy", spent=None, seconds=end - middle),
    ]


def _defaults(run: Run, epsilon: float, reporter: Reporter) -> list[Row]:
    reporter.stage(f"Opacus' example, ε = {epsilon:g}", opacus_defaults.EPOCHS)
    start = time.monotonic()
    with threads(run.plan.workers):
        network = opacus_defaults.federated(
            run.study,
            run.cohorts,
            epsilon=epsilon,
            delta=DELTA,
            seed=run.plan.seed,
            progress=lambda: reporter.advance("Opacus"),
        )
        auc, accuracy = opacus_defaults.score(network, run.cohorts)
    row = Row(
        training=f"Opacus' MNIST example, federated, ε = {epsilon:g}",
        seed=run.plan.seed,
        epsilon=epsilon,
        spent=epsilon,
        auc=auc,
        accuracy=accuracy,
        seconds=time.monotonic() - start,
    )
    return [row]


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
