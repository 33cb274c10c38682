"""What the federation is compared with: each hospital alone, and training without privacy."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from septum import tasks
from septum.models import Vector, load_vector, network_of, to_vector
from septum.study import Study
from septum_client.cohort import Cohort, Split
from septum_client.randomness import Source
from septum_client.train import train
from septum_strategies import AVERAGE, Contribution, State, advance

Progress = Callable[[], None]
Rows = Sequence[tuple[Cohort, npt.NDArray[np.int64]]]

_BATCH = 32
_LEARNING_RATE = 2e-3


def alone(
    study: Study,
    cohorts: Mapping[str, Cohort],
    *,
    source: Source,
    workers: int,
    progress: Progress = lambda: None,
) -> dict[str, Vector]:
    """Return each hospital's model after the study's rounds on its own patients.

    Same network, mechanism, steps and epsilon as in the federation; nothing is
    averaged.
    """
    start = initial(study)

    def one(name: str) -> Vector:
        model = start
        for number in range(1, study.rounds + 1):
            update = train(
                study,
                mechanism=study.mechanism(name),
                cohort=cohorts[name],
                model=model,
                # Not the federation's numbers: the two must not share their luck.
                randomness=source(f"{name}-alone", study.digest, number),
            )
            model = model + update.vector
            progress()
        return model

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(cohorts, pool.map(one, cohorts), strict=True))


def pooled(
    study: Study, cohorts: Mapping[str, Cohort], *, epochs: int, seed: int, progress: Progress
) -> Vector:
    """Return a model trained without privacy on all hospitals' patients in one place."""
    rows = [(cohort, _training_rows(cohort)) for cohort in cohorts.values()]
    return _plain(
        study, initial(study), rows, epochs=epochs, seed=seed, decay=True, progress=progress
    )


def federated(
    study: Study,
    cohorts: Mapping[str, Cohort],
    *,
    rounds: int,
    epochs: int,
    seed: int,
    workers: int,
    progress: Progress = lambda: None,
) -> Vector:
    """Return a model trained by the study's strategy without privacy."""
    model = initial(study)
    state: State = {}
    names = list(cohorts)
    with ThreadPoolExecutor(workers) as pool:
        for number in range(rounds):

            def one(name: str, *, model: Vector = model, number: int = number) -> Vector:
                rows = [(cohorts[name], _training_rows(cohorts[name]))]
                start = seed + 1000 * number + names.index(name)
                return _plain(
                    study, model, rows, epochs=epochs, seed=start, decay=False, progress=progress
                )

            trained = list(pool.map(one, names))
            model, state = advance(
                study.strategy,
                model,
                [
                    Contribution(
                        site=name,
                        update=vector - model,
                        patients=study.participant(name).patients,
                    )
                    for name, vector in zip(names, trained, strict=True)
                ],
                state=state,
                round=number + 1,
            )
    return state.get(AVERAGE, model)


def initial(study: Study) -> Vector:
    """Return the study's initial weights, float32 (params,)."""
    return to_vector(network_of(study))


def _training_rows(cohort: Cohort) -> npt.NDArray[np.int64]:
    return np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TRAIN)


def _plain(
    study: Study,
    start: Vector,
    rows: Rows,
    *,
    epochs: int,
    seed: int,
    decay: bool,
    progress: Progress,
) -> Vector:
    network = network_of(study)
    load_vector(network, start)
    network.train()
    where = np.concatenate(
        [np.stack([np.full(len(r), i), r], axis=1) for i, (_, r) in enumerate(rows)]
    )
    steps = max(1, epochs * -(-len(where) // _BATCH))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(where)
        for batch in (order[i : i + _BATCH] for i in range(0, len(order), _BATCH)):
            images = np.stack([rows[i][0].images[row] for i, row in batch])
            if rng.random() < 0.5:
                images = images[..., ::-1].copy()
            labels = np.stack([rows[i][0].labels[row] for i, row in batch])
            optimizer.zero_grad(set_to_none=True)
            logits = network(tasks.normalise(torch.from_numpy(images)))
            torch.autograd.backward(tasks.loss(logits, torch.from_numpy(labels)).mean())
            optimizer.step()
            if decay:
                schedule.step()
        progress()
    return to_vector(network)
