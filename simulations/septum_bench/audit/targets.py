"""Whom a release is asked about: patients who took part in it, and the same question to others.

The auditor's side: who took part is the truth, and no attack is told.
"""

from typing import Final

import numpy as np

from septum.models import parameter_count
from septum_bench.audit.candidates import summed
from septum_bench.audit.pictures import Crowd
from septum_bench.audit.subject import NotApplicable, Subject
from septum_bench.threat import Floats, KnownNoise

_GALLERY: Final = 150
_FEWEST_DRAWN: Final = 2


def line_up(subject: Subject, number: int, rng: np.random.Generator) -> Crowd:
    """Return patients who took part, one image each that was used, one hospital after the other.

    Somebody who was not drawn cannot be found in the release, and would only
    make it look better than it is.
    """
    sites = subject.released
    picked: list[list[tuple[str, int, int]]] = []
    for name in sites:
        cohort = subject.cohorts[name]
        used = {
            int(cohort.patient_of_image[rows[0]]): rows
            for step in subject.took_part(name, number)
            for rows in step
        }
        chosen = rng.permutation(sorted(used))[: max(1, _GALLERY // len(sites))]
        picked.append([(name, int(p), int(rng.choice(used[int(p)]))) for p in chosen])
    # Random within a hospital already: the first of each in turn is a random choice.
    longest = max(len(own) for own in picked)
    turns = [own[i] for i in range(longest) for own in picked if i < len(own)]
    if len(turns) < _FEWEST_DRAWN:
        raise NotApplicable(
            f"{len(turns)} patients were drawn in round {number}; {_FEWEST_DRAWN} make a line-up.",
            remedy="Audit a study with more patients.",
        )
    cohorts = subject.cohorts
    return Crowd(
        images=np.stack([cohorts[s].images[row].astype(np.float32) for s, _, row in turns]),
        labels=np.stack([cohorts[s].labels[row] for s, _, row in turns]),
        patients=tuple(f"{site}/{patient}" for site, patient, _ in turns),
        sites=tuple(site for site, _, _ in turns),
    )


def as_mean_gradient(subject: Subject, site: str, number: int, crowd: Crowd) -> Floats:
    """Return a release as a mean gradient, as loud as that of the first target's hospital.

    Noise and signal both fall with the declared patients, so that after this
    one known noise is right for all targets; a cosine does not see the scale.
    """
    mechanism = subject.study.mechanism(crowd.sites[0])
    total = summed(subject, site, subject.releases[site, number])
    return (total / np.float32(mechanism.expected_patients * mechanism.steps)).astype(np.float32)


def without_them(
    subject: Subject,
    crowd: Crowd,
    count: int,
    number: int,
    *,
    noise: KnownNoise,
    rng: np.random.Generator,
) -> Floats:
    """Return, for each target, a release without it: the next hospital's, or noise alone."""
    sites = subject.released
    if len(sites) > 1:
        following = dict(zip(sites, sites[1:] + sites[:1], strict=True))
        return np.stack(
            [as_mean_gradient(subject, following[s], number, crowd) for s in crowd.sites[:count]]
        )
    width = parameter_count(subject.network(number - 1))
    return (noise.std * rng.standard_normal((count, width))).astype(np.float32)
