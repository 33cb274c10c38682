"""The study's own recipe without privacy: the same draws and views, no clip and no noise.

What privacy costs is the distance to this, and not to some other training.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from septum import tasks
from septum.models import Vector, Weights, network_of, to_vector, trained
from septum.privacy import Mechanism
from septum.study import Study
from septum_bench.seeded import SeededSource
from septum_client.augment import change_of
from septum_client.cohort import Cohort
from septum_client.optimizers import optimizer_of
from septum_client.randomness import Randomness
from septum_client.train import draw, loss_of, network
from septum_strategies import AVERAGE, Contribution, State, advance

_BATCH = 256


def same_recipe(
    study: Study,
    cohorts: Mapping[str, Cohort],
    *,
    source: SeededSource,
    workers: int,
    progress: Callable[[], None] = lambda: None,
) -> Vector:
    """Return the model that the federation publishes if nobody clips and nobody adds noise.

    Rounds, steps, sampling, divisor, views, optimizer and strategy are the
    study's; FedProx's pull is left out.
    """
    model = to_vector(network_of(study))
    carried: State = {}
    names = list(cohorts)
    with ThreadPoolExecutor(workers) as pool:
        for number in range(1, study.rounds + 1):

            def one(name: str, *, model: Vector = model, number: int = number) -> Contribution:
                update = local_round(
                    study,
                    mechanism=study.mechanism(name),
                    cohort=cohorts[name],
                    model=model,
                    # Not the federation's numbers: the two must not share their luck.
                    randomness=source(f"{name}-unprotected", study.digest, number),
                )
                patients = study.participant(name).patients
                return Contribution(site=name, update=update, patients=patients)

            model, carried = advance(
                study.strategy, model, list(pool.map(one, names)), state=carried, round=number
            )
            progress()
    return carried.get(AVERAGE, model)


def local_round(
    study: Study,
    *,
    mechanism: Mechanism,
    cohort: Cohort,
    model: Vector,
    randomness: Randomness,
    weights: Weights | None = None,
) -> Vector:
    """Return one hospital's update of a round with the study's draws, without clip and noise.

    ``weights`` are the public ones that the study names, if it names any.
    """
    built = network(study, model, weights=weights)
    parameters = trained(built)
    optimizer = optimizer_of(study.training)(parameters)
    change, loss = change_of(study), loss_of(study)
    for step in draw(study, mechanism=mechanism, cohort=cohort, randomness=randomness):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        rows = np.concatenate([np.zeros(0, np.int64), *step])
        share = np.concatenate([np.zeros(0), *[np.full(len(p), 1 / len(p)) for p in step]])
        rows = np.repeat(rows, study.training.views)
        share = np.repeat(share / study.training.views, study.training.views)
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            images = torch.from_numpy(cohort.images[rows[part]]).to(torch.float32)
            targets = torch.from_numpy(cohort.targets[rows[part]])
            if change is not None:
                images, targets = change(images, targets, randomness)
            each = loss(built(tasks.normalise(images)), targets)
            weight = torch.from_numpy(share[part]).to(each)
            torch.autograd.backward((each * weight).sum() / mechanism.expected_patients)
        optimizer.step()
    return np.asarray(to_vector(built) - model, dtype=np.float32)
