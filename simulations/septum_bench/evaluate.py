"""Scores of a model on hospitals' test patients, computed on the bench.

In a real study these figures would be statistics of patients and would not
leave; a simulation owns all its hospitals and may look.
"""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from septum import tasks
from septum.models import Vector, load_vector, network_of
from septum.study import Study
from septum_bench import metrics
from septum_bench.result import Metrics, ModelScore, Subgroup
from septum_client.cohort import AGE_BANDS, SEXES, Cohort, Split

_BATCH = 256
_SIZES_MM = ((0.0, "0 to 9 mm"), (10.0, "10 to 19 mm"), (20.0, "20 mm and over"))


class Tested:
    """The test patients of all hospitals, and how models are scored on them.

    A patient's score is the mean logit over their images; the study's first
    label is the one that is scored.

    Args:
      study: Network and labels.
      cohorts: Each hospital's cohort, by name.
      seed: Of the bootstrap.
    """

    def __init__(self, study: Study, cohorts: Mapping[str, Cohort], *, seed: int) -> None:
        self._study = study
        self._cohorts = dict(cohorts)
        self._seed = seed
        self._rows = {
            name: np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TEST)
            for name, cohort in self._cohorts.items()
        }

    def score(self, name: str, model: Vector, *, private: bool) -> ModelScore:
        """Return pooled and per-hospital performance of one model, called ``name``."""
        scores = self._scores(model)
        return ModelScore(
            name=name,
            private=private,
            pooled=self._metrics(metrics.pooled(scores)),
            per_site={site: self._metrics(of_site) for site, of_site in scores.items()},
        )

    def auc(self, model: Vector) -> float | None:
        """Return the pooled area under the ROC curve, without an interval."""
        pooled = metrics.pooled(self._scores(model))
        if len(set(pooled.labels.tolist())) < 2 or not np.isfinite(pooled.scores).all():
            return None
        return float(roc_auc_score(pooled.labels, pooled.scores))

    def accuracy(self, model: Vector) -> float:
        """Return the pooled share of patients on the right side of probability one half."""
        pooled = metrics.pooled(self._scores(model))
        return float(np.mean((pooled.scores > 0) == (pooled.labels == 1)))

    def subgroups(self, model: Vector) -> tuple[Subgroup, ...]:
        """Return pooled performance by sex, age band and, where it is given, lesion size."""
        scores = metrics.pooled(self._scores(model))
        strata: dict[str, list[str | None]] = {"sex": [], "age": [], "lesion size": []}
        for name, cohort in self._cohorts.items():
            patients = cohort.patients(Split.TEST)
            strata["sex"] += [SEXES[i] if i else None for i in cohort.sex[patients]]
            strata["age"] += [AGE_BANDS[i] if i else None for i in cohort.age_band[patients]]
            strata["lesion size"] += self._lesions(name)
        strata = {group: levels for group, levels in strata.items() if any(levels)}
        return metrics.subgroups(
            scores,
            strata,
            rng=np.random.default_rng(self._seed),
            against_all_negatives={"lesion size"},
        )

    def _metrics(self, scores: metrics.PatientScores) -> Metrics:
        return metrics.score(scores.scores, scores.labels, rng=np.random.default_rng(self._seed))

    def _scores(self, model: Vector) -> dict[str, metrics.PatientScores]:
        study = self._study
        network = network_of(study)
        load_vector(network, model)
        network.eval()
        return {name: self._of_site(network, name) for name in self._cohorts}

    def _of_site(self, network: torch.nn.Module, name: str) -> metrics.PatientScores:
        cohort, rows = self._cohorts[name], self._rows[name]
        logits = np.zeros(len(rows))
        with torch.inference_mode():
            for start in range(0, len(rows), _BATCH):
                batch = torch.from_numpy(cohort.images[rows[start : start + _BATCH]])
                logits[start : start + _BATCH] = network(tasks.normalise(batch))[:, 0].numpy()
        # Padded numbers sort as the patients are stored, which the strata rely on.
        patients = [f"{patient:09d}" for patient in cohort.patient_of_image[rows]]
        return metrics.patient_level(logits, cohort.labels[rows, 0], patients)

    def _lesions(self, name: str) -> list[str | None]:
        cohort, rows = self._cohorts[name], self._rows[name]
        if "lesion_mm" not in cohort.meta:
            return [None] * len(cohort.patients(Split.TEST))
        patients, position = np.unique(cohort.patient_of_image[rows], return_inverse=True)
        largest = np.zeros(len(patients))
        np.maximum.at(largest, position, np.nan_to_num(cohort.meta["lesion_mm"][rows]))
        return [
            next(text for least, text in reversed(_SIZES_MM) if size >= least) if size else None
            for size in largest
        ]
