"""Can the coordinator see a patient by training along: inversion of a round's whole update.

Unlike :mod:`~septum_bench.audit.reconstruction`, which takes a round for one
long step, this attacker simulates the local steps. It guesses one image a
step, the mean of whom the step drew, at the pace that the clip leaves.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from septum_bench.attacks.batch_inversion import weights_of
from septum_bench.attacks.candidate_gradients import clip_factors, patient_gradients
from septum_bench.attacks.fedavg import LocalTraining, UpdateView, invert_update, local_update
from septum_bench.attacks.gradient_matching import MatchingConfig
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.similarity import psnr
from septum_bench.audit import statistics
from septum_bench.audit.candidates import attacked_rounds
from septum_bench.audit.finding import Finding, ThreatRecord
from septum_bench.audit.pictures import ROLES, Crowd, blind
from septum_bench.audit.reconstruction import check_invertible
from septum_bench.audit.statistics import Doubles, Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.threat import Floats, Grant, ThreatModel
from septum_client.train import loss_of

CONFIG: Final = MatchingConfig(
    evaluations=80, layer_power=0.5, box_weight=1.0, tv_weight=1e-2, spread=0.1, stages=2
)
"""What three arms of two hospitals can spend within a minute."""

_SITES: Final = 2
_MOST_STEPS: Final = 5
_PUBLIC: Final = 48
_HELD: Final = {
    Grant.MODEL: "the network, its weights before the round, loss and normalisation",
    Grant.LABELS: "the labels of one patient of each step",
    Grant.PUBLIC_IMAGES: "images of people whose data trained nothing in the study",
    Grant.LOCAL_TRAINING: "learning rate, steps, declared patients and sampling rate",
}

COORDINATOR: Final = ThreatModel(
    name="multi-step inversion, the study's release",
    attacker="a coordinator who trains along with its guess",
    protected=True,
    holds=MappingProxyType(
        _HELD
        | {
            Grant.OBSERVED: "one hospital's release of one round",
            Grant.NOISE: "the clip norm, from the study",
        }
    ),
)
"""What the study's coordinator holds, and labels of patients who were drawn besides."""

UNPROTECTED: Final = ThreatModel(
    name="multi-step inversion, unprotected update",
    attacker=COORDINATOR.attacker,
    protected=False,
    holds=MappingProxyType(
        _HELD | {Grant.OBSERVED: "the update of as many steps on one image each, no clip, no noise"}
    ),
)
"""The positive control: the same steps, each on the one image that is looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Round:
    site: str
    images: Floats
    labels: Floats
    pace: float
    alone: float


def multistep(
    subject: Subject,
    /,
    *,
    rng: np.random.Generator,
    progress: Progress | None = None,
    config: MatchingConfig | None = None,
) -> tuple[Finding, ...]:
    """Return whether images that explain a whole update are like the patients who made it.

    Guarantees:
      - Targets took part: one random patient of each step attacked.
      - Gains are paired per patient, above the best of mean public image, the
        public image nearest to it, and the null run.

    Raises:
      NotApplicable: As of :func:`~septum_bench.audit.reconstruction.reconstruct`; and
        where a round is one step, or a step is not plain SGD.
    """
    check_invertible(subject)
    training = subject.study.training
    if training.optimizer != "sgd" or training.momentum:
        raise NotApplicable(
            f"local steps are simulated for plain SGD, not for {training.optimizer} with "
            f"momentum {training.momentum:g}.",
            remedy="Read the findings on reconstruction instead.",
        )
    number = attacked_rounds(subject, most=1)[0]
    rounds = [
        found
        for site in subject.released[:_SITES]
        if (found := _drawn(subject, site, number, rng)) is not None
    ]
    if not rounds:
        raise NotApplicable(
            f"no hospital drew somebody in two of the steps of round {number}.",
            remedy="Read the findings on reconstruction instead.",
        )
    settings = replace(config or CONFIG, seed=subject.seed)
    made: dict[Role, list[Doubles]] = {role: [] for role in ROLES}
    guess: list[Doubles] = []
    for place, attacked in enumerate(rounds):
        guess.append(_guess(attacked, subject))
        for arm, role in enumerate(ROLES):
            done = place * len(ROLES) + arm
            images = _invert(subject, attacked, role, number, config=settings, rng=rng)
            truth = attacked.images[:, 0]
            made[role].append(psnr(assigned(images, truth), truth))
            if progress is not None:
                progress(done + 1, len(rounds) * len(ROLES))
    scores = {role: np.concatenate(found) for role, found in made.items()}
    return (_finding(scores, np.concatenate(guess), number, rng=rng),)


def _drawn(subject: Subject, site: str, number: int, rng: np.random.Generator) -> _Round | None:
    """Return one image of a random patient of each of a round's first steps, no image twice."""
    cohort, mechanism = subject.cohorts[site], subject.study.mechanism(site)
    rows: list[int] = []
    for step in subject.took_part(site, number)[:_MOST_STEPS]:
        used = sorted({int(row) for patient in step for row in patient} - set(rows))
        if used:
            rows.append(int(rng.choice(used)))
    if mechanism.steps < 2 or len(rows) < 2:
        return None
    images = cohort.images[rows].astype(np.float32)
    labels = cohort.labels[rows]
    norms = np.linalg.norm(_public_gradients(subject, number), axis=1)
    rate = subject.study.training.learning_rate
    pace = float(clip_factors(norms, mechanism).mean()) * mechanism.steps / len(rows)
    return _Round(
        site=site,
        images=images,
        labels=labels,
        pace=rate * pace,
        alone=rate / mechanism.expected_patients,
    )


def _public_gradients(subject: Subject, number: int) -> Floats:
    images = subject.public_images[:_PUBLIC]
    labels = np.zeros((len(images), len(subject.study.data.labels)), np.float32)
    return patient_gradients(
        subject.network(number - 1),
        images,
        labels,
        np.arange(len(images)),
        loss=loss_of(subject.study),
    )


def _invert(
    subject: Subject,
    attacked: _Round,
    role: Role,
    number: int,
    *,
    config: MatchingConfig,
    rng: np.random.Generator,
) -> Floats:
    """Return what the attack makes of one arm, float32 ``(steps, side, side)``."""
    network, loss = subject.network(number - 1), loss_of(subject.study)
    control = role == "control"
    training = LocalTraining(learning_rate=attacked.alone if control else attacked.pace, batch=1)
    if control:
        parts = local_update(
            network,
            weights_of(network, torch.device("cpu")),
            torch.from_numpy(attacked.images),
            torch.from_numpy(attacked.labels),
            loss=loss,
            training=training,
        )
        observed: Floats = torch.cat([part.detach().flatten() for part in parts]).numpy()
    elif role == "release":
        observed = subject.releases[attacked.site, number]
    else:
        observed = _others(subject, attacked.site, number, rng)
    view = UpdateView(
        threat=UNPROTECTED if control else COORDINATOR,
        network=network,
        loss=loss,
        side=attacked.images.shape[-1],
        observed=observed,
        labels=attacked.labels,
        public_images=subject.public_images,
        training=training,
    )
    return invert_update(view, config=config, device=subject.device).images


def _others(subject: Subject, site: str, number: int, rng: np.random.Generator) -> Floats:
    """Return a release without the targets: the next hospital's, or noise alone."""
    sites = subject.released
    if len(sites) > 1:
        following = sites[(sites.index(site) + 1) % len(sites)]
        return np.asarray(subject.releases[following, number])
    release, mechanism = subject.releases[site, number], subject.study.mechanism(site)
    std = subject.study.training.learning_rate * mechanism.noise_std * np.sqrt(mechanism.steps)
    noise = rng.standard_normal(release.shape) * std / mechanism.expected_patients
    return np.asarray(noise, np.float32)


def _guess(attacked: _Round, subject: Subject) -> Doubles:
    count = len(attacked.images)
    crowd = Crowd(
        images=attacked.images,
        labels=attacked.labels,
        patients=("",) * count,
        sites=(attacked.site,) * count,
    )
    return blind(crowd, subject.public_images, count)[0]


def _finding(
    scores: dict[Role, Doubles], guess: Doubles, number: int, *, rng: np.random.Generator
) -> Finding:
    floor = np.maximum(guess, scores["null"])
    control = statistics.mean("control", scores["control"] - floor, rng)
    release = statistics.mean("release", scores["release"] - floor, rng)
    count = len(guess)
    resolved = 2.5 * float(np.std(scores["release"] - floor, ddof=1)) / np.sqrt(count)
    return Finding(
        key="multistep",
        claim="Images that explain all local steps of a release are no more like its patients "
        "than the best blind guess.",
        attack="multi-step inversion of an update under an image prior",
        source="Dimitrov et al. 2022, arXiv:2206.12395",
        threat=ThreatRecord.of(COORDINATOR),
        score="peak signal-to-noise ratio (data range 1) above the best blind guess, per patient",
        unit="dB",
        chance=0.0,
        rounds=(number,),
        control=control,
        null=statistics.mean("null", scores["null"] - guess, rng),
        release=release,
        p_value=statistics.paired_above(scores["release"] - floor, rng),
        control_ok=control.low is not None and control.low > 0,
        power=f"With {count} patients this test finds, in about {statistics.POWER:.0%} of runs, a "
        f"mean gain of {resolved:.1f} dB.",
        sentence=f"Training along with round {number}, one image a step, gives images that lie "
        f"{release.value:+.1f} dB from the best blind guess on average and {release.worst:+.1f} dB "
        f"for the worst patient; from unprotected updates {control.value:+.1f} dB.",
    )
