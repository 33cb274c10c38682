"""How many of the patients drawn in a round have a label: what a release adds to the blind guess.

A hospital's share of a label is a fact about a group, which patient-level
privacy does not promise to hide; the attacker is told it. Asked is the luck of
the round's own draw, which is made of single patients.
"""

from types import MappingProxyType
from typing import Final

import numpy as np

from septum.models import trained
from septum_bench.attacks.label_counts import CountsView, Doubles, estimate_counts
from septum_bench.audit import statistics
from septum_bench.audit.candidates import attacked_rounds, summed, twin
from septum_bench.audit.finding import Finding, ThreatRecord
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.threat import Floats, Grant, ThreatModel
from septum_client.cohort import Split
from septum_client.train import loss_of

_ROUNDS: Final = 6
_PUBLIC: Final = 48
_KINDS: Final = {"classification", "multilabel"}

COORDINATOR: Final = ThreatModel(
    name="label counts, the study's releases",
    attacker="a coordinator who counts labels off the bias of the head",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.MODEL: "the network, its weights before the round, loss and normalisation",
            Grant.OBSERVED: "one hospital's release, as a sum of its steps",
            Grant.LABELS: "the share of the hospital's patients with each label",
            Grant.NOISE: "clip norm and noise multiplier, from the study",
            Grant.LOCAL_TRAINING: "sampling rate, steps and declared patients",
            Grant.PUBLIC_IMAGES: "images of people whose data trained nothing in the study",
        }
    ),
)
"""What the study's coordinator holds, and each hospital's share of a label besides."""

UNPROTECTED: Final = ThreatModel(
    name="label counts, one unprotected step",
    attacker=COORDINATOR.attacker,
    protected=False,
    holds=MappingProxyType(
        dict(COORDINATOR.holds)
        | {
            Grant.OBSERVED: "the first step of the round, unclipped and without noise",
            Grant.LOCAL_TRAINING: "how many patients the step drew",
        }
    ),
)
"""The positive control: the first step, whose weights the attacker knows."""


def count(
    subject: Subject, /, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return whether releases tell a round's label counts closer than the hospital's own share.

    Guarantees:
      - The unit is one hospital's round; its labels are averaged.
      - The null is the same attack and scoring on the next hospital's release, and
        is left out where there is one hospital.

    Raises:
      NotApplicable: The images are volumes or masks, the head has no bias, the
        optimizer's update is no sum, or who took part is not known.
    """
    study = subject.study
    if study.data.task not in _KINDS or study.data.depth != 1:
        raise NotApplicable(
            f"labels are counted of pictures with labels, not of {study.data.task} at depth "
            f"{study.data.depth}.",
            remedy="Read the findings on identification instead.",
        )
    if not len(subject.public_images):
        raise NotApplicable(
            "no public image says what the network makes of a stranger.",
            remedy="Give images of people whose data trained nothing in the study.",
        )
    rounds, sites = attacked_rounds(subject, most=_ROUNDS), subject.released
    ends = tuple(trained(subject.network(rounds[0] - 1))[-1].shape)
    if ends != (len(study.data.labels),):
        raise NotApplicable(
            f"the network ends on a parameter of shape {ends}, not on a bias of one entry a label.",
            remedy="Read the findings on identification instead.",
        )
    roles: tuple[Role, ...] = ("control", "null", "release")
    gains: dict[Role, list[float]] = {role: [] for role in roles}
    for done, (number, place) in enumerate(
        [(number, place) for number in rounds for place in range(len(sites))], start=1
    ):
        site, following = sites[place], sites[(place + 1) % len(sites)]
        gains["control"].append(_gain(subject, site, number, steps=1))
        gains["release"].append(_gain(subject, site, number))
        if following != site:
            gains["null"].append(_gain(subject, site, number, of=following))
        if progress is not None:
            progress(done, len(rounds) * len(sites))
    return (_finding(gains, rounds, rng=rng),)


def _gain(
    subject: Subject, site: str, number: int, *, steps: int | None = None, of: str | None = None
) -> float:
    """Return how much nearer to the truth the attack is than the blind guess, in spreads of a draw.

    Args:
      subject: The study.
      site: Whose draw is asked about.
      number: The round.
      steps: The first few steps, unprotected; None for the release.
      of: Whose release is attacked; ``site``'s unless told.
    """
    mechanism = subject.study.mechanism(site)
    plain, taken = steps is not None, steps or mechanism.steps
    truth, shares, size = _truth(subject, site, number, steps=taken)
    source = of or site
    vector = (
        twin(subject, source, number, steps=taken) if plain else subject.releases[source, number]
    )
    observed: Floats = summed(subject, source, vector, steps=taken)
    drawn = taken * mechanism.sampling_rate * len(subject.cohorts[site].patients(Split.TRAIN))
    view = CountsView(
        threat=UNPROTECTED if plain else COORDINATOR,
        network=subject.network(number - 1),
        loss=loss_of(subject.study),
        exclusive=subject.study.data.task == "classification",
        observed=observed,
        drawn=drawn,
        rate=mechanism.sampling_rate,
        size=size if plain else None,
        noise_std=0.0 if plain else mechanism.noise_std * np.sqrt(taken),
        clip=None if plain else mechanism,
        shares=shares,
        public_images=subject.public_images[:_PUBLIC],
    )
    blind = (size if plain else drawn) * shares
    spread = np.sqrt(np.maximum(drawn * shares * (1 - mechanism.sampling_rate), 1.0))
    nearer = np.abs(blind - truth) - np.abs(estimate_counts(view) - truth)
    return float((nearer / spread).mean())


def _truth(subject: Subject, site: str, number: int, *, steps: int) -> tuple[Doubles, Doubles, int]:
    """Return each label's count among those drawn, the hospital's share of it, and all drawn."""
    cohort = subject.cohorts[site]
    drawn = [
        cohort.labels[rows].mean(axis=0, dtype=np.float64)
        for step in subject.took_part(site, number)[:steps]
        for rows in step
    ]
    everybody = [
        cohort.labels[cohort.images_of(int(patient))].mean(axis=0, dtype=np.float64)
        for patient in cohort.patients(Split.TRAIN)
    ]
    none = np.zeros(cohort.labels.shape[1])
    return np.sum([none, *drawn], axis=0), np.mean(everybody, axis=0), len(drawn)


def _finding(
    gains: dict[Role, list[float]], rounds: tuple[int, ...], *, rng: np.random.Generator
) -> Finding:
    control = statistics.mean("control", gains["control"], rng)
    release = statistics.mean("release", gains["release"], rng)
    null = statistics.mean("null", gains["null"], rng) if gains["null"] else None
    trials = len(gains["release"])
    spread = float(np.std(gains["release"], ddof=1)) if trials > 1 else float("nan")
    return Finding(
        key="labels",
        claim="A release does not tell how many patients with a label were drawn in a round, "
        "closer than the hospital's share of them does.",
        attack="linear estimate from the gradient of the head's bias, clip and noise known",
        source="LLG, Wainakh et al. 2022, arXiv:2105.09369; the linear estimate is ours",
        threat=ThreatRecord.of(COORDINATOR),
        score="error of the blind guess less that of the attack, in standard deviations of a draw",
        unit="SD",
        chance=0.0,
        rounds=rounds,
        control=control,
        null=null,
        release=release,
        p_value=statistics.paired_above(np.array(gains["release"]), rng),
        control_ok=control.low is not None and control.low > 0,
        power=f"With {trials} rounds of hospitals this test finds, in about "
        f"{statistics.POWER:.0%} of runs, a mean gain of {2.5 * spread / np.sqrt(trials):.2f} "
        "standard deviations of a draw.",
        sentence=f"Counting labels off the releases of {len(rounds)} rounds comes "
        f"{release.value:+.2f} standard deviations of a draw nearer to the truth than the "
        f"hospital's own share; off one unprotected step, {control.value:+.2f}.",
    )
