"""The models that the federation is compared with, trained once and kept on disk."""

from pathlib import Path

import numpy as np

from septum.models import Vector
from septum_bench import baselines, engine
from septum_bench.simulate import Reporter, Run, timed

_POOLED_EPOCHS = 12
_PLAIN_ROUNDS = 12


def compare(run: Run, *, reporter: Reporter) -> dict[str, Vector]:
    """Return the models the federation is compared with; finished ones are kept on disk.

    ``alone/<hospital>``: that hospital alone under the same privacy. ``pooled``
    and ``federated``: all hospitals without privacy.
    """
    if not run.plan.baselines:
        return {}
    names = [f"alone/{name}" for name in run.cohorts] + ["pooled", "federated"]
    folder = run.folder / "models"
    paths = {name: folder / f"{name.replace('/', '-')}.npy" for name in names}
    with timed(run.seconds, "baselines"):
        if not all(path.exists() for path in paths.values()):
            folder.mkdir(exist_ok=True)
            _train_baselines(run, paths, reporter)
    return {name: np.load(path, allow_pickle=False) for name, path in paths.items()}


def _train_baselines(run: Run, paths: dict[str, Path], reporter: Reporter) -> None:
    study, workers = run.study, run.plan.workers
    reporter.stage("Baselines", (study.rounds + _PLAIN_ROUNDS) * len(run.cohorts) + _POOLED_EPOCHS)

    def keep(name: str, model: Vector) -> None:
        temporary = paths[name].with_suffix(".partial.npy")
        np.save(temporary, model, allow_pickle=False)
        temporary.replace(paths[name])

    with engine.threads(workers):
        alone = baselines.alone(
            study,
            run.cohorts,
            source=run.source,
            workers=workers,
            progress=lambda: reporter.advance("each hospital alone, same privacy"),
        )
        for name, model in alone.items():
            keep(f"alone/{name}", model)
        keep(
            "federated",
            baselines.federated(
                study,
                run.cohorts,
                rounds=_PLAIN_ROUNDS,
                epochs=1,
                seed=run.plan.seed,
                workers=workers,
                progress=lambda: reporter.advance("federated, without privacy"),
            ),
        )
        # Within the limit, too: one thread was three times as fast as two.
        keep(
            "pooled",
            baselines.pooled(
                study,
                run.cohorts,
                epochs=_POOLED_EPOCHS,
                seed=run.plan.seed,
                progress=lambda: reporter.advance("pooled, without privacy"),
            ),
        )
