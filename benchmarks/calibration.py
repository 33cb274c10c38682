"""How hard the default phantoms are: every way of training on the same test patients.

    .venv/bin/python benchmarks/calibration.py [--out DIR] [--engine local]

Runs the study of ``septum simulate`` with its defaults, without the attack, and
scores pooled training without privacy, each hospital alone with and without
privacy, and the federation with and without. Intervals are 95 % bootstrap over
test patients. The last line is a logistic regression on 8 by 8 thumbnails: what
brightness and body shape alone tell.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from septum_bench import baselines, metrics
from septum_bench.comparison import compare
from septum_bench.engine import threads
from septum_bench.evaluate import Tested
from septum_bench.plan import Plan
from septum_bench.result import Metrics
from septum_bench.simulate import Run, begin, federate
from septum_client.cohort import Cohort, Split

EPOCHS_ALONE = 12  # as many as pooled training


class Loud:
    """A reporter that names each stage."""

    def stage(self, name: str, total: int) -> None:
        """Say that a stage began."""
        print(f"… {name} ({total})", flush=True)

    def advance(self, text: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Say nothing."""


def thumbnails(run: Run) -> Metrics:
    """Score a logistic regression on images averaged to 8 by 8, pooled over hospitals."""
    data = {split: [small(cohort, split) for cohort in run.cohorts.values()] for split in Split}
    images, labels = (
        np.concatenate(part) for part in list(zip(*data[Split.TRAIN], strict=True))[:2]
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(images, labels)
    scores = [
        metrics.patient_level(model.decision_function(x), y, [f"{s}/{p:06d}" for p in owner])
        for s, (x, y, owner) in enumerate(data[Split.TEST])
    ]
    pooled = metrics.pooled({str(s): of_site for s, of_site in enumerate(scores)})
    return metrics.score(pooled.scores, pooled.labels, rng=np.random.default_rng(0))


def small(cohort: Cohort, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thumbnails, labels and patients of one split."""
    rows = np.flatnonzero(cohort.split[cohort.patient_of_image] == split)
    images = cohort.images[rows, 0].astype(np.float32)
    side = images.shape[1] // 8
    cells = images[:, : 8 * side, : 8 * side].reshape(len(rows), 8, side, 8, side).mean((2, 4))
    return cells.reshape(len(rows), 64), cohort.labels[rows, 0], cohort.patient_of_image[rows]


def line(name: str, privacy: str, found: Metrics) -> str:
    auc = found.auc
    if auc.value is None:
        return f"| {name} | {privacy} | – | {auc.reason} | {found.patients} |"
    return (
        f"| {name} | {privacy} | {auc.value:.3f} | {auc.low:.3f}–{auc.high:.3f} "
        f"| {found.patients} |"
    )


def main(out: Path, engine: str) -> None:
    plan = begin(Plan.check(engine=engine, attack=False), out, resume=(out / "plan.json").exists())
    reporter = Loud()
    run = federate(plan, out, reporter=reporter)
    models = compare(run, reporter=reporter)
    reporter.stage("Each hospital alone, without privacy", len(run.cohorts))
    with threads(plan.workers):
        plain = {
            name: baselines.pooled(
                run.study,
                {name: cohort},
                epochs=EPOCHS_ALONE,
                seed=plan.seed,
                progress=lambda: None,
            )
            for name, cohort in run.cohorts.items()
        }
    tested = Tested(run.study, run.cohorts, seed=plan.seed)

    def scored(model: np.ndarray) -> Metrics:
        return tested.score("", model, private=False).pooled

    private = f"ε = {plan.epsilon:g} each"
    print("\n| training | privacy | pooled test AUC | 95 % interval | test patients |")
    print("|---|---|---|---|---|")
    print(line("pooled in one place", "none", scored(models["pooled"])))
    print(line("federation", "none", scored(models["federated"])))
    print(line("federation", private, scored(run.model(run.study.rounds))))
    alone = {name: scored(models[f"alone/{name}"]) for name in run.cohorts}
    for name, found in alone.items():
        print(line(f"{name} alone", private, found))
    for name, model in plain.items():
        print(line(f"{name} alone", "none", scored(model)))
    print(line("8 × 8 thumbnails, logistic regression, pooled", "none", thumbnails(run)))
    print(line("untrained network", "–", scored(run.model(0))))
    median = np.median([found.auc.value for found in alone.values()])
    print(f"\nMedian hospital alone under the same privacy: AUC {median:.3f}.")
    print("Seconds: " + ", ".join(f"{name} {s:.0f}" for name, s in run.seconds.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--engine", default="local")
    options = parser.parse_args()
    if options.out:
        main(options.out, options.engine)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "run", options.engine)
