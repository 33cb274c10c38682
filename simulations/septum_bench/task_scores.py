"""Test performance where one AUC does not say it: classes, numbers and masks.

Pure: no I/O and no clock; randomness comes from the caller. Every figure is
over patients, and its 95 % interval is a bootstrap over patients.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

from septum_bench.result import Figure, Interval, Metrics

Values = npt.NDArray[np.float64]

_TAIL: Final = 0.025
_SMALLEST: Final = 2
_RESAMPLES: Final = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is known of each test patient, float64 ``(patients, labels)`` each.

    Attributes:
      given: Scores of each class, predicted numbers, or Dice of each class.
      truth: 1 at the class, true numbers, or HD95 of each class. For masks, NaN
        (in both) where the patient has nothing of the class.
    """

    given: Values
    truth: Values


def by_patient(
    given: npt.ArrayLike, truth: npt.ArrayLike, patient_of_image: npt.ArrayLike
) -> Evidence:
    """Return the mean over each patient's images, patients ascending; NaN is left out.

    Args:
      given: One row per image, ``(images, labels)``.
      truth: Likewise.
      patient_of_image: Number of each image's patient.
    """
    _, position = np.unique(np.asarray(patient_of_image), return_inverse=True)
    count = int(position.max()) + 1 if len(position) else 0
    return Evidence(given=_means(given, position, count), truth=_means(truth, position, count))


def pooled(sites: Mapping[str, Evidence]) -> Evidence:
    """Return all sites' patients as one group."""
    return Evidence(
        given=np.concatenate([site.given for site in sites.values()]),
        truth=np.concatenate([site.truth for site in sites.values()]),
    )


def overlap(predicted: torch.Tensor, masks: torch.Tensor, *, classes: int) -> tuple[Values, Values]:
    """Return Dice and HD95 of each image and foreground class, ``(images, classes)`` each.

    Dice (1945) and the 95th percentile of the distances between surfaces, by
    MONAI. Distances are in pixels of the training image. Both are NaN where
    the image has nothing of the class. A class that is there and was not
    found at all has Dice 0 and the image's diagonal for its distance.

    Args:
      predicted: Whole numbers, ``(images, [depth,] h, w)``; 0 is background.
      masks: The truth, likewise.
      classes: Number of foreground classes.
    """
    guess, truth = (_one_hot(mask, classes) for mask in (predicted, masks))
    dice = compute_dice(guess, truth, include_background=False, ignore_empty=True)
    distance = torch.full(dice.shape, math.nan, dtype=torch.float64)
    diagonal = math.dist((0,) * (masks.ndim - 1), masks.shape[1:])
    for image, label in (truth[:, 1:].flatten(2).any(dim=2)).nonzero().tolist():
        one = slice(image, image + 1), slice(label + 1, label + 2)
        found = bool(guess[one].any())
        distance[image, label] = _hd95(guess[one], truth[one]) if found else diagonal
    return dice.double().numpy(), distance.numpy()


def of_classes(evidence: Evidence, labels: Sequence[str], *, rng: np.random.Generator) -> Metrics:
    """Return accuracy and the AUC of each class against the rest; their mean is the AUC.

    Patients are resampled within each class, so that no resample loses one
    (macro average, Hand and Till 2001, over one class against all others).
    """
    patients, truth = len(evidence.given), evidence.truth.argmax(axis=1)
    sizes = np.bincount(truth, minlength=len(labels))
    reason = _unusable(evidence.given)
    if not reason and sizes.min() < _SMALLEST:
        reason = f"fewer than {_SMALLEST} patients of {labels[int(sizes.argmin())]}"
    if reason:
        nothing = Interval(value=None, reason=reason)
        return _metrics(patients, auc=nothing, figures=())
    counts = np.ones((_RESAMPLES + 1, patients))
    for label, size in enumerate(sizes):
        inside = truth == label
        counts[1:, inside] = rng.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES)
    each = np.stack([_auc(evidence.given[:, k], truth == k, counts) for k in range(len(labels))])
    right = counts @ (evidence.given.argmax(axis=1) == truth) / patients
    figures = [Figure(name="accuracy", interval=_interval(right))]
    figures += [
        Figure(name=f"AUC of {label} against the rest", interval=_interval(values))
        for label, values in zip(labels, each, strict=True)
    ]
    return _metrics(patients, auc=_interval(each.mean(axis=0)), figures=tuple(figures))


def of_numbers(evidence: Evidence, labels: Sequence[str], *, rng: np.random.Generator) -> Metrics:
    """Return the mean absolute error of each label, in the label's own unit."""
    error = np.abs(evidence.given - evidence.truth)
    figures = tuple(
        Figure(name=f"mean absolute error of {label}", interval=_mean(error[:, k], rng=rng))
        for k, label in enumerate(labels)
    )
    nothing = Interval(value=None, reason="the task is regression")
    return _metrics(len(error), auc=nothing, figures=figures)


def of_masks(evidence: Evidence, labels: Sequence[str], *, rng: np.random.Generator) -> Metrics:
    """Return the mean Dice and HD95 of each class, over the patients who have it."""
    figures = []
    for k, label in enumerate(labels):
        figures += [
            Figure(name=f"Dice of {label}", interval=_mean(evidence.given[:, k], rng=rng)),
            Figure(name=f"HD95 of {label}, pixels", interval=_mean(evidence.truth[:, k], rng=rng)),
        ]
    nothing = Interval(value=None, reason="the task is segmentation")
    return _metrics(len(evidence.given), auc=nothing, figures=tuple(figures))


def _metrics(patients: int, *, auc: Interval, figures: tuple[Figure, ...]) -> Metrics:
    nothing = Interval(value=None, reason="not of this task")
    return Metrics(
        patients=patients,
        positives=0,
        auc=auc,
        sensitivity=nothing,
        specificity_target=0.9,
        brier=nothing,
        calibration_error=nothing,
        figures=figures,
    )


def _means(rows: npt.ArrayLike, position: npt.NDArray[np.intp], count: int) -> Values:
    values = np.asarray(rows, np.float64)
    known = ~np.isnan(values)
    total, seen = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(total, position, np.where(known, values, 0))
    np.add.at(seen, position, known)
    return np.divide(total, seen, out=np.full_like(total, np.nan), where=seen > 0)


def _hd95(guess: torch.Tensor, truth: torch.Tensor) -> float:
    with warnings.catch_warnings():
        # MONAI 1.6 passes itself an argument that it has deprecated.
        warnings.filterwarnings(
            "ignore", message=".*always_return_as_numpy", category=FutureWarning
        )
        return float(compute_hausdorff_distance(guess, truth, True, percentile=95).item())


def _one_hot(mask: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(mask.long(), classes + 1).movedim(-1, 1)


def _auc(scores: Values, positive: npt.NDArray[np.bool_], counts: Values) -> Values:
    """Return the AUC of each row of counts (Mann and Whitney: a tie is half a win)."""
    _, group = np.unique(scores, return_inverse=True)
    member = np.eye(int(group.max()) + 1)[group]
    wins, losses = (counts * positive) @ member, (counts * ~positive) @ member
    below = np.cumsum(losses, axis=1) - losses
    auc = (wins * (below + 0.5 * losses)).sum(axis=1)
    result: Values = auc / (wins.sum(axis=1) * losses.sum(axis=1))
    return result


def _mean(values: Values, *, rng: np.random.Generator) -> Interval:
    known = values[~np.isnan(values)]
    if len(known) < _SMALLEST:
        return Interval(value=None, reason=f"{len(known)} patients: fewer than {_SMALLEST}")
    if not np.isfinite(known).all():
        return Interval(value=None, reason="a value is not finite")
    size = len(known)
    drawn = rng.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES)
    return _interval(np.vstack([np.ones(size), drawn]) @ known / size)


def _interval(draws: Values) -> Interval:
    """Return the first draw, which is the data's own, between the quantiles of the rest."""
    low, high = np.quantile(draws[1:], [_TAIL, 1 - _TAIL])
    return Interval(value=float(draws[0]), low=float(low), high=float(high))


def _unusable(given: Values) -> str:
    return "" if np.isfinite(given).all() else "a score is not finite"
