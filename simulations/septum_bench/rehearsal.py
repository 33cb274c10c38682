"""The study attacks itself: which patients, which gallery, and what the attacker holds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from septum.models import load_vector, network_of, parameter_count
from septum_bench.attacks.inversion import InversionConfig, gradients
from septum_bench.leakage import Gallery, Targets, measure_leakage
from septum_bench.phantoms import public_images
from septum_bench.result import Leakage
from septum_bench.simulate import Run
from septum_bench.threat import KnownNoise, as_gradient
from septum_client.cohort import Cohort, Split
from septum_client.train import draw

LARGEST_MODEL = 1_000_000
"""Parameters above which the inversion takes hours on a CPU and is left out, loudly."""

_TARGETS = 6
_GALLERY = 150
_PUBLIC = 200
_MOST_HELD_OUT = 512
_FEWEST_PUBLIC = 4
_FEWEST_DRAWN = 2


def attack(run: Run, *, progress: Callable[[int, int], None]) -> Leakage:
    """Invert unprotected gradients and this study's own first releases, alike.

    Gallery and targets are patients and images that were used in the attacked
    round, drawn at random, one hospital after the other. The attacker's public
    images are phantoms of people who are in no hospital or, on real data, of
    the hospitals' held-out test patients: more than any outsider holds.
    """
    rng = np.random.default_rng(run.plan.seed)
    crowd = _line_up(run, rng)
    # Random within a hospital already: the first of each in turn is a random choice.
    sites = [person.site for person in crowd]
    order = sorted(range(len(crowd)), key=lambda i: (sites[:i].count(sites[i]), i))[:_TARGETS]
    targets = [crowd[i] for i in order]
    study = run.study
    network = network_of(study)
    load_vector(network, run.model(0))
    images = np.stack([target.image for target in targets])
    labels = np.stack([target.label for target in targets])
    unprotected = gradients(network, torch.from_numpy(images), torch.from_numpy(labels))
    reference = targets[0].site
    return measure_leakage(
        network=network,
        targets=Targets(
            images=images,
            labels=labels,
            patients=tuple(target.patient for target in targets),
            sites=tuple(target.site for target in targets),
        ),
        gallery=Gallery(
            images=np.stack([person.image for person in crowd]),
            patients=tuple(person.patient for person in crowd),
        ),
        public_images=_public(run, rng),
        unprotected=unprotected.numpy(),
        released=np.stack([_observed(run, target.site, like=reference) for target in targets]),
        noise=KnownNoise.of_release(study.mechanism(reference)),
        config=InversionConfig(seed=run.plan.seed),
        rng=rng,
        progress=progress,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Person:
    site: str
    patient: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]


def _line_up(run: Run, rng: np.random.Generator) -> list[_Person]:
    """Return patients who took part in round 1, each with an image that was used in it.

    Somebody who was not drawn cannot be found in the release, and would only
    make it look better than it is.
    """
    names = [name for name in run.cohorts if run.first_release(name) is not None]
    crowd = []
    for name in names:
        cohort = run.cohorts[name]
        steps = draw(
            run.study,
            mechanism=run.study.mechanism(name),
            cohort=cohort,
            randomness=run.source(name, run.study.digest, 1),
        )
        used = {int(cohort.patient_of_image[rows[0]]): rows for step in steps for rows in step}
        count = min(len(used), max(1, _GALLERY // len(names)))
        for patient in rng.choice(sorted(used), count, replace=False):
            row = int(rng.choice(used[int(patient)]))
            crowd.append(
                _Person(
                    site=name,
                    patient=f"{name}/{patient}",
                    image=cohort.images[row].astype(np.float32),
                    label=cohort.labels[row],
                )
            )
    return crowd


def _observed(run: Run, site: str, *, like: str) -> npt.NDArray[np.float32]:
    """Return a site's first release as a gradient, as loud as that of the site ``like``.

    Noise and signal both fall with the declared patients, so that after this
    one known noise is right for all targets; a cosine does not see the scale.
    """
    release = run.first_release(site)
    if release is None:
        raise KeyError(site)
    study = run.study
    scale = study.participant(site).patients / study.participant(like).patients
    return as_gradient(
        release * np.float32(scale),
        learning_rate=study.training.learning_rate,
        steps=study.privacy.steps_per_round,
    )


def _public(run: Run, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    if run.plan.data is None:
        # Another seed: the attacker's phantoms are not the hospitals' generator run again.
        return public_images(_PUBLIC, run.study.data.image_size, seed=run.plan.seed + 1)
    held_out = [cohort.images[_held_out(cohort)] for cohort in run.cohorts.values()]
    return rng.permutation(np.concatenate(held_out))[:_MOST_HELD_OUT].astype(np.float32)


def _held_out(cohort: Cohort) -> npt.NDArray[np.int64]:
    return np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TEST)


def cannot(run: Run) -> str:
    """Return why this study cannot be attacked here, or an empty text."""
    if run.study.data.task != "multilabel":
        return f"the inversion is of present or absent labels, not of {run.study.data.task}"
    parameters = parameter_count(network_of(run.study))
    if parameters > LARGEST_MODEL:
        return (
            f"inverting a network of {parameters:,} parameters takes hours on a CPU; "
            f"the limit is {LARGEST_MODEL:,}"
        )
    if all(run.first_release(name) is None for name in run.cohorts):
        return "no hospital released in round 1"
    held_out = sum(len(_held_out(cohort)) for cohort in run.cohorts.values())
    if run.plan.data is not None and held_out < _FEWEST_PUBLIC:
        return f"fewer than {_FEWEST_PUBLIC} held-out images to learn a prior from"
    if len(_line_up(run, np.random.default_rng(0))) < _FEWEST_DRAWN:
        return f"fewer than {_FEWEST_DRAWN} patients were drawn in round 1"
    return ""
