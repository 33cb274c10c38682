"""Reconstructions scored: likeness above blind guesses, rank in a line-up, and what to show.

The auditor's side: it holds the truth, and nothing here is handed to an attack.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from septum_bench.attacks.embedder import Embedder
from septum_bench.attacks.similarity import blind_guesses, psnr, ranks, ssim
from septum_bench.audit.statistics import Role
from septum_bench.record import Reconstruction
from septum_bench.threat import Floats

Doubles = npt.NDArray[np.float64]

ROLES: Final[tuple[Role, ...]] = ("control", "null", "release")
"""In the order in which they are attacked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crowd:
    """The line-up, who took part in the attacked round; the first are the targets."""

    images: Floats = field(repr=False)
    labels: Floats = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    sites: tuple[str, ...]

    def first(self, most: int) -> "Crowd":
        """Return the line-up of the first ``most`` patients: as random as the whole."""
        return Crowd(
            images=self.images[:most],
            labels=self.labels[:most],
            patients=self.patients[:most],
            sites=self.sites[:most],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """What an attack made of the targets, and its scores, one per target."""

    images: Floats = field(repr=False)
    psnr: Doubles
    ssim: Doubles
    rank: npt.NDArray[np.int64]
    embedded: npt.NDArray[np.int64]
    """Rank by an embedder that learned from public images, in place of correlation."""


def scored(found: Floats, crowd: Crowd, public: Floats, *, embedder: Embedder | None) -> Arm:
    """Return the scores of reconstructions ``(targets, side, side)`` of the crowd's first.

    Without an embedder its ranks are those by correlation.
    """
    truth = crowd.images[: len(found), 0]

    def ranked(embed: Callable[[Floats], Doubles] | None) -> npt.NDArray[np.int64]:
        return ranks(
            found,
            patients=crowd.patients[: len(found)],
            gallery=crowd.images[:, 0],
            gallery_patients=crowd.patients,
            public_mean=blind_guesses(public[:, 0])[0],
            embed=embed,
        )

    return Arm(
        images=found,
        psnr=psnr(found, truth),
        ssim=ssim(found, truth),
        rank=ranked(None),
        embedded=ranked(embedder.embed if embedder is not None else None),
    )


def blind(
    crowd: Crowd, public: Floats, count: int
) -> tuple[Doubles, Doubles, npt.NDArray[np.int64], Floats]:
    """Return PSNR and SSIM of each target's best blind guess, which it is, and the guesses."""
    truth, guesses = crowd.images[:count, 0], blind_guesses(public[:, 0])
    made = [np.broadcast_to(guess, truth.shape) for guess in guesses]
    decibels = np.stack([psnr(each, truth) for each in made])
    likeness = np.stack([ssim(each, truth) for each in made])
    return decibels.max(axis=0), likeness.max(axis=0), decibels.argmax(axis=0), guesses


def pictures_of(arms: dict[Role, Arm], crowd: Crowd, public: Floats) -> tuple[Reconstruction, ...]:
    """Return the record of each target: original, guesses and what each arm made of it."""
    control, null, release = (arms[role] for role in ROLES)
    decibels, likeness, which, guesses = blind(crowd, public, len(release.images))
    return tuple(
        Reconstruction(
            site=crowd.sites[i],
            original=grey(crowd.images[i, 0]),
            reconstruction=grey(release.images[i]),
            prior=grey(guesses[which[i]]),
            psnr=float(release.psnr[i]),
            ssim=float(release.ssim[i]),
            prior_psnr=float(decibels[i]),
            prior_ssim=float(likeness[i]),
            rank=int(release.rank[i]),
            gallery=len(crowd.patients),
            control=grey(control.images[i]),
            control_psnr=float(control.psnr[i]),
            control_ssim=float(control.ssim[i]),
            control_rank=int(control.rank[i]),
            null=grey(null.images[i]),
            null_psnr=float(null.psnr[i]),
            null_ssim=float(null.ssim[i]),
            null_rank=int(null.rank[i]),
        )
        for i in range(len(release.images))
    )


def grey(image: Floats) -> npt.NDArray[np.uint8]:
    """Return an image in [0, 1] as grey levels."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)
