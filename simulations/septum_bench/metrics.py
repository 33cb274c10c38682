"""Test performance of a model, per patient, with intervals that admit what is not known.

Pure: no I/O and no clock; randomness comes from the caller. Scores are
logits, so that two patients who are both almost certain keep their order.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import beta

from septum.errors import DataError
from septum_bench.result import Interval, Metrics, Reliability, Subgroup

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
_Counts = npt.NDArray[np.float64]

_MOST_BINS: Final = 10
_PATIENTS_PER_BIN: Final = 20  # fewer, and the calibration error is mostly noise
_TAIL: Final = 0.025
_SMALLEST_CLASS: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class PatientScores:
    """One score and one label for each patient.

    Attributes:
      patients: Identifiers, ascending.
      scores: Mean logit over the patient's images, float64 (patients,).
      labels: 1 if any of the patient's images is positive, else 0, int64 (patients,).
    """

    patients: tuple[str, ...]
    scores: Scores
    labels: Labels


def patient_level(
    logits: npt.ArrayLike, labels: npt.ArrayLike, patient_of_image: Sequence[str]
) -> PatientScores:
    """Return each patient's mean logit and highest label.

    Args:
      logits: One per image, shape ``(images,)``.
      labels: 0 or 1 per image, shape ``(images,)``.
      patient_of_image: Identifier of each image's patient.

    Raises:
      DataError: The three lengths differ.
    """
    score, label = np.asarray(logits, np.float64), np.asarray(labels)
    if score.shape != label.shape or score.shape != (len(patient_of_image),):
        raise DataError(
            f"{score.shape} logits, {label.shape} labels and {len(patient_of_image)} patients "
            "must be one per image.",
            remedy="Give each image one logit, one label and one patient.",
        )
    names, position = np.unique(np.asarray(patient_of_image, dtype=str), return_inverse=True)
    images = np.bincount(position, minlength=len(names))
    highest = np.zeros(len(names), np.int64)
    np.maximum.at(highest, position, (label > 0).astype(np.int64))
    return PatientScores(
        patients=tuple(names.tolist()),
        scores=np.bincount(position, weights=score, minlength=len(names)) / images,
        labels=highest,
    )


def score(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    specificity: float = 0.90,
    resamples: int = 1000,
) -> Metrics:
    """Return the test performance with 95 % bootstrap intervals over patients.

    AUC and sensitivity are resampled within each class, so that no resample
    loses one; Brier score and calibration error over all patients, because
    they depend on the prevalence.

    Args:
      scores: Logits, shape ``(patients,)``.
      labels: 0 or 1, shape ``(patients,)``.
      rng: Source of the resamples.
      specificity: At which sensitivity is read: the highest sensitivity of any
        threshold whose specificity is at least this. The threshold is chosen
        on these patients, anew in each resample.
      resamples: Number of bootstrap resamples.

    Guarantees:
      - A figure that the patients cannot resolve (one class, fewer than two
        patients of a class, a score that is not finite) is ``None`` with its
        reason, never a number.
      - Where a perfect (or worst) score makes every resample equal, the bound
        is the exact binomial one on the smaller class (AUC) or the positives
        (sensitivity), since the bootstrap would claim certainty.
      - A calibration error that a perfectly calibrated model would show by
        chance has 0 as its lower bound (Bröcker and Smith 2007).
    """
    logit, truth = np.asarray(scores, np.float64), (np.asarray(labels) > 0).astype(np.int64)
    positives, patients = int(truth.sum()), len(truth)
    anywhere = _unusable(logit, patients)
    within = anywhere or _missing_class(positives, patients - positives)
    auc = sensitivity = brier = calibration = Interval(value=None, reason=anywhere or within)
    reliability: tuple[Reliability, ...] = ()
    if not within:
        auc, sensitivity = _ranking(logit, truth, specificity, resamples, rng)
    if not anywhere:
        brier, calibration, reliability = _calibration(expit(logit), truth, resamples, rng)
    return Metrics(
        patients=patients,
        positives=positives,
        auc=auc,
        sensitivity=sensitivity,
        specificity_target=specificity,
        brier=brier,
        calibration_error=calibration,
        reliability=reliability,
    )


def pooled(sites: Mapping[str, PatientScores]) -> PatientScores:
    """Return all sites' patients as one group; the same identifier at two sites is two patients."""
    if not sites:
        return PatientScores(patients=(), scores=np.empty(0), labels=np.empty(0, np.int64))
    return PatientScores(
        patients=tuple(f"{name}/{p}" for name, site in sites.items() for p in site.patients),
        scores=np.concatenate([site.scores for site in sites.values()]),
        labels=np.concatenate([site.labels for site in sites.values()]),
    )


def subgroups(
    scores: PatientScores,
    strata: Mapping[str, Sequence[str | None]],
    *,
    rng: np.random.Generator,
    against_all_negatives: Collection[str] = (),
    specificity: float = 0.90,
    resamples: int = 1000,
) -> tuple[Subgroup, ...]:
    """Return the performance within each level of each stratum, levels in alphabetical order.

    Args:
      scores: All patients.
      strata: Group ("sex") to the level of each patient, in the order of
        ``scores.patients``; ``None`` where the patient has no level.
      rng: Source of the resamples.
      against_all_negatives: Groups such as lesion size, which only positives
        have: their levels are compared with every negative patient.
      specificity: See :func:`score`.
      resamples: See :func:`score`.
    """
    rows = []
    for group, levels in strata.items():
        of_patient = np.array(["" if level is None else level for level in levels], dtype=str)
        if len(of_patient) != len(scores.patients):
            raise DataError(
                f"{group!r} has {len(of_patient)} levels for {len(scores.patients)} patients.",
                remedy="Give one level, or None, for each patient.",
            )
        negatives = (scores.labels == 0) & (group in against_all_negatives)
        # Without the filter a negative's own level would be a row that holds no positive.
        named = of_patient[~negatives]
        for level in sorted(set(named[named != ""].tolist())):
            chosen = (of_patient == level) | negatives
            metrics = score(
                scores.scores[chosen],
                scores.labels[chosen],
                rng=rng,
                specificity=specificity,
                resamples=resamples,
            )
            rows.append(Subgroup(group=group, level=level, metrics=metrics))
    return tuple(rows)


def exact_binomial(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Clopper and Pearson (1934).

    >>> [round(bound, 3) for bound in exact_binomial(6, 6)]
    [0.541, 1.0]
    """
    low = 0.0 if successes == 0 else float(beta.ppf(_TAIL, successes, trials - successes + 1))
    high = (
        1.0
        if successes == trials
        else float(beta.ppf(1 - _TAIL, successes + 1, trials - successes))
    )
    return low, high


def _unusable(logit: Scores, patients: int) -> str:
    if logit.shape != (patients,):
        raise DataError(
            f"{logit.shape} scores do not match {patients} labels.",
            remedy="Give one score and one label for each patient.",
        )
    if patients < _SMALLEST_CLASS:
        return f"{patients} patients: fewer than {_SMALLEST_CLASS}"
    return "" if np.isfinite(logit).all() else "a score is not finite"


def _missing_class(positives: int, negatives: int) -> str:
    if not positives or not negatives:
        return "one class only"
    if min(positives, negatives) < _SMALLEST_CLASS:
        return f"{positives} positive and {negatives} negative patients: too few to resample"
    return ""


def _interval(value: float, draws: Scores, trials: int = 0) -> Interval:
    low, high = np.quantile(draws, [_TAIL, 1 - _TAIL])
    if trials and value in (0.0, 1.0) and low == high:
        low, high = exact_binomial(round(value * trials), trials)
    return Interval(value=value, low=float(low), high=float(high))


def _ranking(
    logit: Scores, truth: Labels, specificity: float, resamples: int, rng: np.random.Generator
) -> tuple[Interval, Interval]:
    _, group = np.unique(logit, return_inverse=True)
    counts = []
    for label in (0, 1):
        of_group = np.bincount(group, weights=truth == label, minlength=int(group.max()) + 1)
        total = int(of_group.sum())
        drawn = rng.multinomial(total, of_group / total, size=resamples)
        counts.append(np.vstack([of_group, drawn]).astype(np.float64))
    negative, positive = counts
    total_negative, total_positive = negative[0].sum(), positive[0].sum()
    below = np.cumsum(negative, axis=1) - negative
    # Mann and Whitney: a tie is half a win.
    auc = (positive * (below + 0.5 * negative)).sum(axis=1) / (total_negative * total_positive)
    # A tolerance, or 0.9 of ten negatives would miss nine of them.
    allowed = below >= specificity * total_negative - 1e-9
    sensitivity = (positive * allowed).sum(axis=1) / total_positive
    smaller = int(min(total_negative, total_positive))
    return (
        _interval(float(auc[0]), auc[1:], smaller),
        _interval(float(sensitivity[0]), sensitivity[1:], int(total_positive)),
    )


def _calibration(
    probability: Scores, truth: Labels, resamples: int, rng: np.random.Generator
) -> tuple[Interval, Interval, tuple[Reliability, ...]]:
    patients = len(truth)
    bins = int(np.clip(patients // _PATIENTS_PER_BIN, 1, _MOST_BINS))
    edges = np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1])
    member = np.eye(bins)[np.searchsorted(edges, probability)]
    weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    brier = (probability - truth) ** 2
    error = _gap(weights * (truth - probability), member)
    value = float(_gap((truth - probability)[None], member)[0])
    by_chance = rng.random((resamples, patients)) < probability
    calibrated = np.quantile(_gap(by_chance - probability, member), 0.95)
    # The mean of an absolute value grows under resampling; take the growth off again.
    shifted = np.clip(error - (error.mean() - value), 0, 1)
    interval = _interval(value, shifted)
    if value <= calibrated:
        interval = interval.model_copy(update={"low": 0.0})
    rows = [
        Reliability(
            predicted=float(probability[inside].mean()),
            observed=float(truth[inside].mean()),
            patients=int(inside.sum()),
        )
        for inside in member.T.astype(bool)
        if inside.any()
    ]
    return _interval(float(brier.mean()), weights @ brier / patients), interval, tuple(rows)


def _gap(residual: _Counts, member: _Counts) -> Scores:
    """Return the expected calibration error of each row of residuals (Naeini et al. 2015)."""
    gaps: Scores = np.abs(residual @ member).sum(axis=1) / residual.shape[1]
    return gaps
