"""A study's leakage: its release under attack, beside the same attack without protection.

Scoring knows the truth, the attack does not: :class:`Targets` and
:class:`Gallery` stay here, and what reaches the attack is an
:class:`~septum_bench.threat.AttackerView`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta, binom, binomtest
from torch import nn

from septum.errors import DataError
from septum_bench.attacks.inversion import InversionConfig, Progress, invert
from septum_bench.attacks.similarity import blind_guesses, psnr, ranks, ssim
from septum_bench.metrics import exact_binomial
from septum_bench.result import AttackRow, Interval, Leakage, Reconstruction
from septum_bench.threat import RELEASED, UNPROTECTED, AttackerView, KnownNoise, ThreatModel

Floats = npt.NDArray[np.float32]

LEVEL: Final = 0.05
"""Chance of a false "leak" from a release that holds nothing."""

_POWER: Final = 0.80
_RESAMPLES: Final = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The patients under attack: what scoring knows and no attack is given.

    Attributes:
      images: Float32 (targets, 1, size, size) in [0, 1].
      labels: Float32 (targets, outputs).
      patients: Identifier of each target, distinct.
      sites: Site of each target.
    """

    images: Floats = field(repr=False)
    labels: Floats = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.images), len(self.labels), len(self.patients), len(self.sites)}
        if len(sizes) != 1 or not self.patients or len(set(self.patients)) != len(self.patients):
            raise DataError(
                f"{len(self.images)} images, {len(self.labels)} labels, "
                f"{len(set(self.patients))} patients and {len(self.sites)} sites "
                "must be one each per target.",
                remedy="Give each of at least one target patient one image, label and site.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """The line-up: images of many patients, the targets among them.

    Attributes:
      images: Float32 (images, 1, size, size) in [0, 1].
      patients: Patient of each image.
    """

    images: Floats = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Number of patients."""
        return len(set(self.patients))


def measure_leakage(
    *,
    network: nn.Module,
    targets: Targets,
    gallery: Gallery,
    public_images: Floats,
    unprotected: Floats,
    released: Floats,
    noise: KnownNoise | None,
    config: InversionConfig,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Leakage:
    """Attack the release and its unprotected twin alike, and return both with the verdict.

    Args:
      network: Holds the weights before the round.
      targets: Drawn at random from the gallery's patients: only then is chance
        ``1 / gallery`` whatever the reconstructions look like.
      gallery: The line-up of both attacks.
      public_images: Float32 (n, 1, size, size), non-members: the prior, and the
        blind guesses that a gain is measured against.
      unprotected: The exact gradient of each target, float32 (targets, params).
      released: The release of each target's site, through
        :func:`~septum_bench.threat.as_gradient`, float32 (targets, params).
      noise: Noise of ``released``, known from the study; None if it had none.
      config: Budget of each attack.
      rng: Of the bootstrap over patients.
      device: Where to compute.
      progress: Called with steps done and steps in all, over both attacks.
      clock: Seconds; only differences are used.

    Guarantees:
      - Gallery, prior, scoring and budget of the two attacks are the same.
      - A release is "not refuted" only where the control identified most
        targets with a 95 % bound above chance; else the verdict is "void".
      - A release that holds nothing is called "leak" with chance of at most
        :data:`LEVEL`.
    """
    arms = ((UNPROTECTED, unprotected, None), (RELEASED, released, noise))
    rows = []
    for arm, (threat, observed, loudness) in enumerate(arms):
        view = AttackerView(
            threat=threat,
            network=network,
            observed=observed,
            labels=targets.labels,
            public_images=public_images,
            noise=loudness,
        )
        started = clock()
        images = invert(view, config=config, device=device, progress=_arm(progress, arm))
        seconds = clock() - started
        rows.append(
            score_attack(
                images,
                threat=threat,
                targets=targets,
                gallery=gallery,
                public_images=public_images,
                config=config,
                seconds=seconds,
                rng=rng,
            )
        )
    control, release = rows
    verdict, sentence = judge(control, release)
    return Leakage(verdict=verdict, sentence=sentence, control=control, release=release)


def score_attack(
    reconstructions: Floats,
    *,
    threat: ThreatModel,
    targets: Targets,
    gallery: Gallery,
    public_images: Floats,
    config: InversionConfig,
    seconds: float,
    rng: np.random.Generator,
) -> AttackRow:
    """Return the row of one attack: similarity above the best blind guess, and identification.

    Args:
      reconstructions: Float32 (targets, size, size) in [0, 1].
      threat: The attacker.
      targets: The truth.
      gallery: The line-up.
      public_images: Float32 (n, 1, size, size).
      config: The budget that was spent.
      seconds: Wall time of the attack.
      rng: Of the bootstrap over patients.

    Guarantees:
      - A gain is taken per patient above the better of two blind guesses (the
        mean public image and the public image nearest to it), so that what
        everybody's chest looks like counts as no leak.
    """
    truth, guesses = targets.images[:, 0], blind_guesses(public_images[:, 0])
    count = len(truth)
    blind = [np.broadcast_to(guess, truth.shape) for guess in guesses]
    blind_psnr = np.stack([psnr(guess, truth) for guess in blind])
    blind_ssim = np.stack([ssim(guess, truth) for guess in blind])
    made_psnr, made_ssim = psnr(reconstructions, truth), ssim(reconstructions, truth)
    place = ranks(
        reconstructions,
        patients=targets.patients,
        gallery=gallery.images[:, 0],
        gallery_patients=gallery.patients,
        public_mean=guesses[0],
    )
    identified = int((place == 1).sum())
    low, high = exact_binomial(identified, count)
    return AttackRow(
        name=threat.name,
        attacker=threat.attacker,
        grants=threat.grants,
        protected=threat.protected,
        gallery=gallery.size,
        identified=identified,
        targets=tuple(
            Reconstruction(
                site=targets.sites[i],
                original=_grey(truth[i]),
                reconstruction=_grey(reconstructions[i]),
                prior=_grey(guesses[blind_psnr[:, i].argmax()]),
                psnr=float(made_psnr[i]),
                ssim=float(made_ssim[i]),
                prior_psnr=float(blind_psnr[:, i].max()),
                prior_ssim=float(blind_ssim[:, i].max()),
                rank=int(place[i]),
            )
            for i in range(count)
        ),
        identification=Interval(value=identified / count, low=low, high=high),
        psnr_gain=_paired(made_psnr - blind_psnr.max(axis=0), rng),
        ssim_gain=_paired(made_ssim - blind_ssim.max(axis=0), rng),
        iterations=config.iterations * config.restarts,
        seconds=seconds,
    )


def judge(
    control: AttackRow, release: AttackRow
) -> tuple[Literal["void", "leak", "not refuted"], str]:
    """Return the verdict that the two attacks allow, and its sentence in plain words.

    Guarantees:
      - ``void`` unless the control identified more than half of its targets
        and its exact 95 % lower bound (Clopper and Pearson 1934) passes chance.
      - ``leak`` if the release was identified above chance by the exact
        one-sided binomial test at :data:`LEVEL`.
      - No sentence calls a release safe: a stronger attack may exist.
    """
    count, chance = len(release.targets), 1 / release.gallery
    named = f"{release.identified} of {count}"
    proof = f"{control.identified} of {len(control.targets)}"
    low = control.identification.low
    if low is None or low <= 1 / control.gallery or 2 * control.identified <= len(control.targets):
        return "void", (
            f"Void: even on the unprotected gradient the attack named only {proof} patients "
            f"among {control.gallery}, so that it named {named} from the release says nothing. "
            "Use a stronger attack or more iterations."
        )
    p_value = float(binomtest(release.identified, count, chance, alternative="greater").pvalue)
    found = (
        f"gradient inversion ({release.iterations} steps a target) by {release.attacker} named "
        f"{named} patients among {release.gallery} who took part; chance is {chance:.1%} each "
        f"(one-sided exact p = {p_value:.2g})."
    )
    twin = f"On the unprotected gradients the same attack named {proof}."
    if p_value < LEVEL:
        return "leak", f"Leak: {found} {twin}"
    smallest = smallest_leak(count, chance)
    power = (
        f"With {count} targets this test finds, in {_POWER:.0%} of cases, a release that names "
        f"{smallest:.0%} of its patients"
        if smallest is not None
        else f"With {count} targets this test can find no leak at all"
    )
    return "not refuted", (
        f"Not refuted: {found} {twin} {power}; a smaller leak or a stronger attack stays possible. "
        "The release also sums many patients, so this does not credit the noise alone."
    )


def smallest_leak(targets: int, chance: float) -> float | None:
    """Return the lowest share of identified patients that the test finds with 80 % power.

    None if even naming every target would not pass the test.

    >>> round(smallest_leak(6, 1 / 150), 3)
    0.235
    """
    hits = np.arange(targets + 1)
    enough = hits[binom.sf(hits - 1, targets, chance) < LEVEL]
    if not len(enough):
        return None
    # P(at least k hits) at rate r is the beta(k, n - k + 1) distribution function at r.
    fewest = int(enough[0])
    return float(beta.ppf(_POWER, fewest, targets - fewest + 1))


def _paired(gain: npt.NDArray[np.float64], rng: np.random.Generator) -> Interval:
    if len(gain) < 2:
        return Interval(value=None, reason="one target: too few to resample")
    drawn = gain[rng.integers(len(gain), size=(_RESAMPLES, len(gain)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value=float(gain.mean()), low=float(low), high=float(high))


def _grey(image: Floats) -> npt.NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)


def _arm(progress: Progress | None, arm: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(arm * total + done, 2 * total)
