"""Can the coordinator see a patient: inversion of a round's release, its unprotected twin, a null.

Scoring knows the truth, the attack does not. The three arms have the same
targets, line-up, prior, budget and seed; in the null arm the attack is given a
release to which the target did not contribute.
"""

from typing import Final, Literal

import numpy as np
import torch

from septum_bench.attacks.embedder import FEWEST, Embedder
from septum_bench.attacks.inversion import InversionConfig, gradients, invert
from septum_bench.audit import statistics
from septum_bench.audit.candidates import attacked_rounds
from septum_bench.audit.finding import Finding, ThreatRecord
from septum_bench.audit.pictures import ROLES, Arm, Crowd, blind, pictures_of, scored
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.audit.targets import as_mean_gradient, line_up, without_them
from septum_bench.record import Reconstruction
from septum_bench.threat import RELEASED, UNPROTECTED, AttackerView, Floats, KnownNoise
from septum_client.train import loss_of

LARGEST_MODEL: Final = 1_000_000
"""Parameters above which an inversion takes hours on a CPU and is left out, loudly."""

_TARGETS: Final = 6
_FEWEST_PUBLIC: Final = 4
_SOURCE: Final = "Geiping et al. 2020, arXiv:2003.14053; Balunović et al. 2022, arXiv:2111.04706"


def reconstruct(
    subject: Subject,
    /,
    *,
    rng: np.random.Generator,
    progress: Progress | None = None,
    config: InversionConfig | None = None,
) -> tuple[Finding, ...]:
    """Return whether an inverted release names its patients, and whether it looks like them.

    Guarantees:
      - Line-up and targets are patients who took part in the attacked round,
        drawn at random: chance is ``1 / gallery`` whatever images look like.
      - Gains are paired per patient, above the best of mean public image, the
        public image nearest to it, and the null run.

    Raises:
      NotApplicable: The study is no multilabel study of small pictures, its
        randomness is not known, or too few patients took part.
    """
    check_invertible(subject)
    number = attacked_rounds(subject, most=1)[0]
    crowd = line_up(subject, number, rng)
    count = min(_TARGETS, len(crowd.patients))
    network = subject.network(number - 1)
    settings = config or InversionConfig(seed=subject.seed)
    images, labels = crowd.images[:count], crowd.labels[:count]
    loss = loss_of(subject.study)
    exact = gradients(network, torch.from_numpy(images), torch.from_numpy(labels), loss=loss)
    noise = KnownNoise.of_release(subject.study.mechanism(crowd.sites[0]))
    observed: dict[Role, Floats] = {
        "control": exact.detach().numpy(),
        "null": without_them(subject, crowd, count, number, noise=noise, rng=rng),
        "release": np.stack(
            [as_mean_gradient(subject, s, number, crowd) for s in crowd.sites[:count]]
        ),
    }
    # Its own stream: what was drawn before there was an embedder stays as it was.
    luck = np.random.default_rng([subject.seed, *b"embedder"])
    public = subject.public_images[:, 0]
    embedder = Embedder.fit(public, rng=luck) if len(public) >= FEWEST else None
    arms: dict[Role, Arm] = {}
    for place, role in enumerate(ROLES):
        control = role == "control"
        view = AttackerView(
            threat=UNPROTECTED if control else RELEASED,
            network=network,
            observed=observed[role],
            labels=labels,
            public_images=subject.public_images,
            noise=None if control else noise,
        )
        found = invert(
            view,
            config=settings,
            loss=loss,
            device=subject.device,
            progress=_part(progress, place, len(ROLES)),
        )
        arms[role] = scored(found, crowd, subject.public_images, embedder=embedder)
    pictures = pictures_of(arms, crowd, subject.public_images)
    return (
        _naming(arms, crowd, number, by="correlation"),
        *([_naming(arms, crowd, number, by="embedder")] if embedder is not None else []),
        _likeness(arms, crowd, number, subject.public_images, rng=rng, pictures=pictures),
    )


def check_invertible(subject: Subject) -> None:
    """Refuse what no inversion here can draw.

    Raises:
      NotApplicable: The study is no multilabel study of small pictures, or
        there are too few public images to learn a prior from.
    """
    study = subject.study
    if study.data.task != "multilabel" or study.data.depth != 1:
        raise NotApplicable(
            f"the inversion is of pictures with present or absent labels, not of "
            f"{study.data.task} at depth {study.data.depth}.",
            remedy="Read the findings on identification instead.",
        )
    # Frozen ones too: an inversion goes back through all of them.
    network = subject.network(min(subject.models, default=0))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters > LARGEST_MODEL:
        raise NotApplicable(
            f"inverting a network of {parameters:,} parameters takes hours on a CPU; the limit "
            f"is {LARGEST_MODEL:,}.",
            remedy="Read the findings on identification instead.",
        )
    if len(subject.public_images) < _FEWEST_PUBLIC:
        raise NotApplicable(
            f"{len(subject.public_images)} public images teach no prior; {_FEWEST_PUBLIC} do.",
            remedy="Give images of people whose data trained nothing in the study.",
        )


def _naming(
    arms: dict[Role, Arm], crowd: Crowd, number: int, *, by: Literal["correlation", "embedder"]
) -> Finding:
    gallery = len(crowd.patients)
    ranks = {role: arm.rank if by == "correlation" else arm.embedded for role, arm in arms.items()}
    named = {role: int((rank == 1).sum()) for role, rank in ranks.items()}
    count = len(ranks["release"])
    shares = {role: statistics.share(role, named[role], count) for role in ROLES}
    low = shares["control"].low
    return Finding(
        key="inversion" if by == "correlation" else "inversion-embedder",
        claim="No patient can be named from the image that inversion makes of a release"
        + (".", ", by what survives a bad reconstruction.")[by == "embedder"],
        attack="gradient inversion under an image prior, then rank by "
        + ("correlation", "an embedder learned from public images")[by == "embedder"],
        source=_SOURCE,
        threat=ThreatRecord.of(RELEASED),
        score=f"patients named among {gallery} who took part",
        unit="share",
        chance=1 / gallery,
        rounds=(number,),
        control=shares["control"],
        null=shares["null"],
        release=shares["release"],
        p_value=statistics.above_chance(named["release"], count, 1 / gallery),
        control_ok=2 * named["control"] > count and low is not None and low > 1 / gallery,
        power=statistics.power_of_shares(count, 1 / gallery),
        sentence=f"Inverting the releases of round {number} named "
        f"{named['release']} of {count} patients among {gallery} by {by}; the same attack named "
        f"{named['control']} from unprotected gradients and {named['null']} from releases without "
        "the patient.",
        curves=tuple(
            statistics.rank_curve(role, [int(rank) for rank in ranks[role]], gallery=gallery)
            for role in ROLES
        ),
    )


def _likeness(
    arms: dict[Role, Arm],
    crowd: Crowd,
    number: int,
    public: Floats,
    *,
    rng: np.random.Generator,
    pictures: tuple[Reconstruction, ...],
) -> Finding:
    guess = blind(crowd, public, len(pictures))[0]
    floor = np.maximum(guess, arms["null"].psnr)
    gains = {
        "control": arms["control"].psnr - floor,
        "null": arms["null"].psnr - guess,
        "release": arms["release"].psnr - floor,
    }
    control = statistics.mean("control", gains["control"], rng)
    release = statistics.mean("release", gains["release"], rng)
    spread = float(np.std(gains["release"], ddof=1)) if len(pictures) > 1 else float("nan")
    resolved = 2.5 * spread / np.sqrt(len(pictures))
    return Finding(
        key="reconstruction",
        claim="The image that inversion makes of a release is no more like its patient than the "
        "best blind guess.",
        attack="gradient inversion under an image prior",
        source=_SOURCE,
        threat=ThreatRecord.of(RELEASED),
        score="peak signal-to-noise ratio (data range 1) above the best blind guess, per patient",
        unit="dB",
        chance=0.0,
        rounds=(number,),
        control=control,
        null=statistics.mean("null", gains["null"], rng),
        release=release,
        p_value=statistics.paired_above(gains["release"], rng),
        control_ok=control.low is not None and control.low > 0,
        power=f"With {len(pictures)} patients this test finds, in about {statistics.POWER:.0%} of "
        f"runs, a mean gain of {resolved:.1f} dB.",
        sentence=f"Reconstructions from round {number} lie {release.value:+.1f} dB from the best "
        f"blind guess on average and {release.worst:+.1f} dB for the worst patient; from "
        f"unprotected gradients {control.value:+.1f} dB.",
        reconstructions=pictures,
    )


def _part(progress: Progress | None, place: int, parts: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(place * total + done, parts * total)
