"""What a crafting server would get: its imprint network at this study's hospitals.

The control is a client that trains whatever it is sent. A hospital of Septum
builds the network that its approved study names, from a registry, and refuses
a vector that does not fit it; the probe tries both. The release arm is what is
left if that refusal ever failed: the crafted network under the study's clip
and noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from septum.errors import SeptumError
from septum.models import build, to_vector
from septum_bench.attacks.batch_inversion import mean_gradient, weights_of
from septum_bench.attacks.candidate_gradients import patient_gradients
from septum_bench.attacks.imprint import ImprintNetwork, ImprintView, craft, recover
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.similarity import psnr
from septum_bench.audit import statistics
from septum_bench.audit.finding import Finding, Measured, ThreatRecord
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.threat import Floats, Grant, ThreatModel
from septum_client.cohort import Split
from septum_client.train import loss_of, network

EXACT_DB: Final = 30.0
"""Likeness from which an image counts as recovered (Fowl et al. 2022 call 20 dB so)."""

_BATCH: Final = 16
_BATCHES: Final = 2
_BINS: Final = 128
_MEASUREMENTS: Final = 2
_FEWEST_PUBLIC: Final = 4
_CLAIM: Final = "A server that sends a network made for extracting images recovers none of them."
_SOURCE: Final = "Fowl et al. 2022, arXiv:2110.13057"
_HELD: Final = {
    Grant.CRAFTED_MODEL: "the right to send a network and weights of its own making",
    Grant.MODEL: "the loss, the normalisation and the size of the images",
}

TRUSTED: Final = ThreatModel(
    name="imprint, a client that trains whatever it is sent",
    attacker="a coordinator who crafts the network",
    protected=False,
    holds=_HELD | {Grant.OBSERVED: "the exact mean gradient of one batch"},
)
"""The positive control."""

GUARDED: Final = ThreatModel(
    name="imprint, under the study's clip and noise",
    attacker=TRUSTED.attacker,
    protected=True,
    holds=_HELD | {Grant.OBSERVED: "one noisy step of the study's mechanism on the same batch"},
)
"""What is left of it if a hospital's refusal ever failed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    images: Floats
    targets: Floats
    others: Floats


def imprint(
    subject: Subject, /, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return how many patients' images a crafted network brings home, and whether it is refused.

    Guarantees:
      - The three arms have the same network and batches; the null is scored on
        images of other patients than those of the gradient.
      - A client that accepts the crafted network refutes the claim outright.

    Raises:
      NotApplicable: The images are volumes or masks, or too few, or no public ones are known.
    """
    if subject.study.data.depth != 1 or subject.study.data.task == "segmentation":
        raise NotApplicable(
            "the imprint is of pictures with labels.", remedy="Audit a study of pictures."
        )
    if len(subject.public_images) < _FEWEST_PUBLIC:
        raise NotApplicable(
            f"{len(subject.public_images)} public images place no bins; {_FEWEST_PUBLIC} do.",
            remedy="Give images of people whose data trained nothing in the study.",
        )
    batches = _batches(subject, rng)
    outputs = batches[0].targets.shape[1]
    crafted = craft(
        subject.public_images,
        outputs=outputs,
        bins=_BINS,
        measurements=_MEASUREMENTS,
        seed=subject.seed,
    )
    hits = dict.fromkeys(("control", "null", "release"), 0)
    for done, batch in enumerate(batches, start=1):
        exact = _exact(subject, crafted, batch)
        noisy = _noisy(subject, crafted, batch, rng)
        hits["control"] += _recovered(crafted, exact, batch.images, TRUSTED)
        hits["null"] += _recovered(crafted, exact, batch.others, TRUSTED)
        hits["release"] += _recovered(crafted, noisy, batch.images, GUARDED)
        if progress is not None:
            progress(done, len(batches))
    trials = sum(len(batch.images) for batch in batches)
    return (_finding(hits, trials, refused=refuses(subject, crafted)),)


def refuses(subject: Subject, crafted: ImprintNetwork) -> tuple[bool, ...]:
    """Return whether a hospital refuses the crafted network by name, and by its weights.

    The client's own functions are asked: the registry that builds a study's
    network, and the loading of weights into it.
    """
    attempts: tuple[Callable[[], object], ...] = (
        lambda: build("imprint", channels=1, outputs=1, seed=0),
        lambda: network(subject.study, to_vector(crafted), weights=subject.weights),
    )
    answers = []
    for attempt in attempts:
        try:
            attempt()
        except SeptumError:
            answers.append(True)
        else:
            answers.append(False)
    return tuple(answers)


def _batches(subject: Subject, rng: np.random.Generator) -> list[_Batch]:
    """Return batches of one image a patient, each of one hospital, and as many strangers."""
    made: list[_Batch] = []
    for site in subject.released or tuple(subject.cohorts):
        cohort = subject.cohorts[site]
        patients = rng.permutation(cohort.patients(Split.TRAIN).astype(np.int64))
        rows = np.array([cohort.images_of(int(patient)).start for patient in patients])
        size = min(_BATCH, len(rows) // 2)
        if size < 1 or len(made) == _BATCHES:
            continue
        images = cohort.images[rows[: 2 * size]].astype(np.float32)
        made.append(
            _Batch(
                images=images[:size],
                targets=cohort.targets[rows[:size]].astype(np.float32),
                others=images[size:],
            )
        )
    if not made:
        raise NotApplicable(
            "no hospital's cohort holds two patients.", remedy="Audit a folder with its cohorts."
        )
    return made


def _exact(subject: Subject, crafted: ImprintNetwork, batch: _Batch) -> Floats:
    layers = mean_gradient(
        crafted,
        weights_of(crafted, torch.device("cpu")),
        torch.from_numpy(batch.images),
        torch.from_numpy(batch.targets),
        loss=loss_of(subject.study),
    )
    return np.asarray(torch.cat([layer.detach().flatten() for layer in layers]).numpy())


def _noisy(
    subject: Subject, crafted: ImprintNetwork, batch: _Batch, rng: np.random.Generator
) -> Floats:
    mechanism = subject.study.mechanism(subject.study.sites[0].name)
    each = patient_gradients(
        crafted,
        batch.images,
        batch.targets,
        np.arange(len(batch.images)),
        loss=loss_of(subject.study),
        mechanism=mechanism,
        device="cpu",
    )
    total = each.sum(axis=0) + mechanism.noise_std * rng.standard_normal(each.shape[1])
    return np.asarray(total / mechanism.expected_patients, dtype=np.float32)


def _recovered(
    crafted: ImprintNetwork, observed: Floats, truth: Floats, threat: ThreatModel
) -> int:
    side = truth.shape[-1]
    view = ImprintView(threat=threat, network=crafted, observed=observed, side=side)
    found = recover(view)
    missing = max(0, len(truth) - len(found))
    padded = np.concatenate([found, np.full((missing, side, side), 0.5, np.float32)])
    return int((psnr(assigned(padded, truth[:, 0]), truth[:, 0]) > EXACT_DB).sum())


def _finding(hits: dict[str, int], trials: int, *, refused: tuple[bool, ...]) -> Finding:
    shares: dict[Role, Measured] = {}
    roles: tuple[Role, ...] = ("control", "null", "release")
    for role in roles:
        shares[role] = statistics.share(role, hits[role], trials)
    chance = 1 / trials  # recovering one image blindly is already more than anybody can
    accepted = not all(refused)
    kept = "refuses" if not accepted else "ACCEPTS"
    return Finding(
        key="imprint",
        claim=_CLAIM,
        attack="first layer of one neuron per quantile of a measurement, read off in closed form",
        source=_SOURCE,
        threat=ThreatRecord.of(GUARDED),
        score=f"patients' images recovered above {EXACT_DB:.0f} dB",
        unit="share",
        chance=0.0,
        control=shares["control"],
        null=shares["null"],
        release=shares["release"],
        p_value=0.0 if accepted else statistics.above_chance(hits["release"], trials, chance),
        control_ok=2 * hits["control"] > trials,
        power=statistics.power_of_shares(trials, chance),
        sentence=f"A client that trains whatever it is sent loses {hits['control']} of {trials} "
        f"images exactly. The hospital's client {kept} the crafted network, by its name and by "
        f"its weights; under the study's clip and noise alone {hits['release']} of {trials} "
        "would be recovered.",
    )
