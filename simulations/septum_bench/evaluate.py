"""Scores of a model on hospitals' test patients, computed on the bench.

In a real study these figures would be statistics of patients and would not
leave; a simulation owns all its hospitals and may look.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from sklearn.metrics import roc_auc_score

from septum import tasks
from septum.errors import DataError
from septum.models import Vector, Weights, load_vector, network_of
from septum.study import Study
from septum_bench import metrics, task_scores
from septum_bench.result import Metrics, ModelScore, Subgroup
from septum_client.cohort import AGE_BANDS, SEXES, Cohort, Split

_BATCH_PIXELS = 1 << 20
_SIZES_MM = ((0.0, "0 to 9 mm"), (10.0, "10 to 19 mm"), (20.0, "20 mm and over"))


_FIGURES = {
    "classification": task_scores.of_classes,
    "regression": task_scores.of_numbers,
    "segmentation": task_scores.of_masks,
}


class Tested:
    """The test patients of all hospitals, and how models are scored on them.

    A patient's score is the mean over their images; of several labels that
    may be present together, the study's first one is scored.

    Args:
      study: Network, task and labels.
      cohorts: Each hospital's cohort, by name.
      seed: Of the bootstrap.
      weights: The public weights that the study names, if it names any.
    """

    def __init__(
        self,
        study: Study,
        cohorts: Mapping[str, Cohort],
        *,
        seed: int,
        weights: Weights | None = None,
    ) -> None:
        self._study = study
        self._cohorts = dict(cohorts)
        self._seed = seed
        self._weights = weights
        self._task = tasks.task_of(study)
        self._rows = {
            name: np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TEST)
            for name, cohort in self._cohorts.items()
        }

    def score(self, name: str, model: Vector, *, private: bool) -> ModelScore:
        """Return pooled and per-hospital performance of one model, called ``name``."""
        if self._study.data.task in _FIGURES:
            found = self._evidence(model)
            every = self._figures(task_scores.pooled(found))
            per_site = {site: self._figures(of_site) for site, of_site in found.items()}
        else:
            scores = self._scores(model)
            every = self._metrics(metrics.pooled(scores))
            per_site = {site: self._metrics(of_site) for site, of_site in scores.items()}
        return ModelScore(name=name, private=private, pooled=every, per_site=per_site)

    def auc(self, model: Vector) -> float | None:
        """Return the pooled area under the ROC curve, without an interval; None if it has none."""
        if self._study.data.task in _FIGURES:
            return self._figures(task_scores.pooled(self._evidence(model))).auc.value
        pooled = metrics.pooled(self._scores(model))
        if len(set(pooled.labels.tolist())) < 2 or not np.isfinite(pooled.scores).all():
            return None
        return float(roc_auc_score(pooled.labels, pooled.scores))

    def accuracy(self, model: Vector) -> float:
        """Return the pooled share of patients on the right side of probability one half.

        Raises:
          DataError: The task is not one of labels that are present or absent.
        """
        if self._study.data.task in _FIGURES:
            raise DataError(
                f"the task is {self._study.data.task!r}, which has no such accuracy.",
                remedy="Read the figures of Tested.score.",
            )
        pooled = metrics.pooled(self._scores(model))
        return float(np.mean((pooled.scores > 0) == (pooled.labels == 1)))

    def subgroups(self, model: Vector) -> tuple[Subgroup, ...]:
        """Return pooled performance by sex, age band and, where it is given, lesion size.

        Of present or absent labels only; other tasks have no subgroups.
        """
        if self._study.data.task in _FIGURES:
            return ()
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

    def _figures(self, evidence: task_scores.Evidence) -> Metrics:
        data = self._study.data
        return _FIGURES[data.task](evidence, data.labels, rng=np.random.default_rng(self._seed))

    def _network(self, model: Vector) -> torch.nn.Module:
        network = network_of(self._study, weights=self._weights)
        load_vector(network, model)
        return network.eval()

    def _scores(self, model: Vector) -> dict[str, metrics.PatientScores]:
        network = self._network(model)
        return {name: self._of_site(network, name) for name in self._cohorts}

    def _of_site(self, network: torch.nn.Module, name: str) -> metrics.PatientScores:
        cohort, rows = self._cohorts[name], self._rows[name]
        logits = np.concatenate(
            [outputs[:, 0].numpy() for _, outputs in self._outputs(network, name)] or [np.zeros(0)]
        )
        # Padded numbers sort as the patients are stored, which the strata rely on.
        patients = [f"{patient:09d}" for patient in cohort.patient_of_image[rows]]
        return metrics.patient_level(logits, cohort.labels[rows, 0], patients)

    def _evidence(self, model: Vector) -> dict[str, task_scores.Evidence]:
        network = self._network(model)
        return {name: self._evidence_of(network, name) for name in self._cohorts}

    def _evidence_of(self, network: torch.nn.Module, name: str) -> task_scores.Evidence:
        cohort, labels = self._cohorts[name], len(self._study.data.labels)
        given, truth = [np.zeros((0, labels))], [np.zeros((0, labels))]
        for rows, outputs in self._outputs(network, name):
            targets = np.asarray(cohort.targets[rows])
            if self._study.data.task == "segmentation":
                masks = torch.from_numpy(targets)
                guess = self._task.predict(outputs)
                found, distance = task_scores.overlap(guess, masks, classes=labels)
                given.append(found)
                truth.append(distance)
            else:
                raw = self._study.data.task == "classification"
                shown = outputs if raw else self._task.predict(outputs)
                given.append(shown.double().numpy())
                truth.append(targets.astype(np.float64))
        patients = cohort.patient_of_image[self._rows[name]]
        return task_scores.by_patient(np.concatenate(given), np.concatenate(truth), patients)

    def _outputs(
        self, network: torch.nn.Module, name: str
    ) -> Iterator[tuple[npt.NDArray[np.intp], torch.Tensor]]:
        """Yield the image rows of each batch, and what the network says of them."""
        cohort, rows, data = self._cohorts[name], self._rows[name], self._study.data
        window = (data.depth,) * (data.depth > 1) + (data.image_size,) * 2
        size = max(1, _BATCH_PIXELS // int(np.prod(window)))
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            images = tasks.normalise(torch.from_numpy(cohort.images[chosen]))
            with torch.inference_mode():
                yield (
                    chosen,
                    masks_of(network, images, window=window)
                    if data.task == "segmentation"
                    else network(images),
                )

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


def masks_of(
    network: torch.nn.Module, images: torch.Tensor, *, window: tuple[int, ...]
) -> torch.Tensor:
    """Return a network's logits of images of any size, ``(images, outputs, [depth,] h, w)``.

    Larger images than the window that the network was trained on are seen
    window by window, overlapping by a quarter, and averaged (MONAI).
    """
    if tuple(images.shape[2:]) == window:
        return torch.as_tensor(network(images))
    return torch.as_tensor(
        sliding_window_inference(
            images, roi_size=window, sw_batch_size=4, predictor=network, overlap=0.25
        )
    )
