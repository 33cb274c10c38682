"""Does a release name a patient by what entered the network's last layer, in closed form?

The image itself comes out of a first linear layer; no network of the registry
has one on pixels, and a crafted network that has is the imprint's question.
Asked here is the layer that every registered network does have.
"""

from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from septum.errors import ConfigError
from septum.models import parameter_count
from septum_bench.attacks.head_input import FingerprintView, alike, ends_on_linear
from septum_bench.attacks.inversion import gradients
from septum_bench.audit import statistics
from septum_bench.audit.candidates import attacked_rounds
from septum_bench.audit.finding import Finding, ThreatRecord
from septum_bench.audit.pictures import ROLES, Crowd
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.audit.targets import as_mean_gradient, line_up, without_them
from septum_bench.threat import Floats, Grant, KnownNoise, ThreatModel
from septum_client.train import loss_of

_ROUNDS: Final = 4
_FEWEST: Final = 10
_MOST_NUMBERS: Final = 60_000_000  # of the line-up's gradients: 240 MB
_BATCH: Final = 32

COORDINATOR: Final = ThreatModel(
    name="layer input in closed form, the study's release",
    attacker="a coordinator who suspects certain patients",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.MODEL: "the network, its weights before the round, loss and normalisation",
            Grant.OBSERVED: "the release of the target's hospital",
            Grant.CANDIDATES: "one image, with labels, of each patient of the line-up",
        }
    ),
)
"""What the study's coordinator holds, and candidates' images besides."""

UNPROTECTED: Final = ThreatModel(
    name="layer input in closed form, unprotected gradient",
    attacker=COORDINATOR.attacker,
    protected=False,
    holds=MappingProxyType(
        dict(COORDINATOR.holds) | {Grant.OBSERVED: "the exact gradient of the target's image"}
    ),
)
"""The positive control."""


def fingerprint(
    subject: Subject, /, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return whether what entered the last layer names patients who took part in a round.

    Guarantees:
      - Line-up and targets are patients who took part, drawn at random: chance
        is ``1 / gallery`` whatever fingerprints look like.
      - A tie with another patient counts for the attacker; who names nobody comes last.

    Raises:
      NotApplicable: The network does not end on a linear layer, the images are
        volumes or masks, or who took part is not known.
    """
    if subject.study.data.depth != 1 or subject.study.data.task == "segmentation":
        raise NotApplicable(
            "a layer's input is compared for pictures with labels.",
            remedy="Read the findings on identification instead.",
        )
    rounds = attacked_rounds(subject, most=_ROUNDS)
    network = subject.network(rounds[0] - 1)
    try:
        ends_on_linear(network)
    except ConfigError as error:
        raise NotApplicable(error.message, remedy="Read the findings on identification.") from None
    crowds = [line_up(subject, number, rng) for number in rounds]
    able = _MOST_NUMBERS // parameter_count(network)
    gallery = min(able, *(len(crowd.patients) for crowd in crowds))
    if gallery < _FEWEST:
        raise NotApplicable(
            f"{gallery} gradients fit in memory; {_FEWEST} make a line-up.",
            remedy="Read the findings on identification instead.",
        )
    rank: dict[Role, list[int]] = {role: [] for role in ROLES}
    for done, (number, crowd) in enumerate(zip(rounds, crowds, strict=True), start=1):
        for role, found in _ranks(subject, crowd.first(gallery), number, rng=rng).items():
            rank[role] += found
        if progress is not None:
            progress(done, len(rounds))
    return (_finding(rank, gallery, rounds),)


def _ranks(
    subject: Subject, crowd: Crowd, number: int, *, rng: np.random.Generator
) -> dict[Role, list[int]]:
    """Return the rank of one patient of each hospital in each arm of a round."""
    network, loss = subject.network(number - 1), loss_of(subject.study)
    # One target a release: whom a release names it names alone.
    count = len(set(crowd.sites))
    images, labels = torch.from_numpy(crowd.images), torch.from_numpy(crowd.labels)
    parts = [
        gradients(network, images[i : i + _BATCH], labels[i : i + _BATCH], loss=loss).detach()
        for i in range(0, len(images), _BATCH)
    ]
    candidates: Floats = torch.cat(parts).numpy()
    noise = KnownNoise.of_release(subject.study.mechanism(crowd.sites[0]))
    observed: dict[Role, Floats] = {
        "control": candidates[:count],
        "null": without_them(subject, crowd, count, number, noise=noise, rng=rng),
        "release": np.stack(
            [as_mean_gradient(subject, site, number, crowd) for site in crowd.sites[:count]]
        ),
    }
    rank: dict[Role, list[int]] = {}
    for role in ROLES:
        view = FingerprintView(
            threat=UNPROTECTED if role == "control" else COORDINATOR,
            network=network,
            observed=observed[role],
            candidates=candidates,
        )
        found = np.round(alike(view), 9)  # ties of what differs by the order of summation
        own = found[np.arange(count), np.arange(count)]
        better = (found > own[:, None]).sum(axis=1)
        blank = ~found.any(axis=1)
        rank[role] = np.where(blank, found.shape[1], better + 1).tolist()
    return rank


def _finding(rank: dict[Role, list[int]], gallery: int, rounds: tuple[int, ...]) -> Finding:
    named = {role: found.count(1) for role, found in rank.items()}
    count = len(rank["release"])
    shares = {role: statistics.share(role, named[role], count) for role in ROLES}
    low = shares["control"].low
    return Finding(
        key="fingerprint",
        claim="What entered the network's last layer, read off a release, names no patient.",
        attack="gradient of the last linear layer over that of its bias, ranked by correlation",
        source="Phong et al. 2018; Geiping et al. 2020, arXiv:2003.14053, proposition 3.1",
        threat=ThreatRecord.of(COORDINATOR),
        score=f"patients named among {gallery} who took part",
        unit="share",
        chance=1 / gallery,
        rounds=rounds,
        control=shares["control"],
        null=shares["null"],
        release=shares["release"],
        p_value=statistics.above_chance(named["release"], count, 1 / gallery),
        control_ok=2 * named["control"] > count and low is not None and low > 1 / gallery,
        power=statistics.power_of_shares(count, 1 / gallery),
        sentence=f"Dividing the last layer's gradient by its bias's named {named['release']} of "
        f"{count} patients among {gallery} from the releases of {len(rounds)} rounds, "
        f"{named['control']} from unprotected gradients and {named['null']} from releases "
        "without the patient.",
        curves=tuple(statistics.rank_curve(role, rank[role], gallery=gallery) for role in ROLES),
    )
