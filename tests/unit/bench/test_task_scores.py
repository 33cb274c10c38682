from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from septum.errors import DataError
from septum.models import network_of, to_vector
from septum_bench import evaluate, task_scores
from septum_bench.task_scores import Evidence, by_patient, of_classes, of_masks, of_numbers, overlap
from septum_client.cohort import Split

LABELS = ("a", "b", "c")


def rng():
    return np.random.default_rng(0)


def classes(patients, noise=1.0, seed=1):
    random = np.random.default_rng(seed)
    truth = np.arange(patients) % 3
    scores = noise * random.normal(size=(patients, 3)) + np.eye(3)[truth]
    return Evidence(given=scores, truth=np.eye(3)[truth])


def test_the_auc_of_classes_is_the_mean_of_each_against_the_rest():
    evidence = classes(60)
    found = of_classes(evidence, LABELS, rng=rng())
    each = [roc_auc_score(evidence.truth[:, k], evidence.given[:, k]) for k in range(3)]
    assert found.auc.value == pytest.approx(np.mean(each))
    figures = {figure.name: figure.interval for figure in found.figures}
    for k, label in enumerate(LABELS):
        assert figures[f"AUC of {label} against the rest"].value == pytest.approx(each[k])
    right = evidence.given.argmax(axis=1) == evidence.truth.argmax(axis=1)
    assert figures["accuracy"].value == pytest.approx(right.mean())
    for interval in (found.auc, *figures.values()):
        assert interval.low <= interval.value <= interval.high
        assert interval.low < interval.high


def test_the_interval_of_an_auc_narrows_with_more_patients():
    few, many = (of_classes(classes(n), LABELS, rng=rng()).auc for n in (30, 600))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_ties_count_half_in_the_auc_of_classes():
    tied = Evidence(given=np.zeros((6, 3)), truth=np.eye(3)[[0, 0, 1, 1, 2, 2]])
    assert of_classes(tied, LABELS, rng=rng()).auc.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence(given=np.zeros((4, 3)), truth=np.eye(3)[[0, 0, 1, 1]]), "patients of c"),
        (Evidence(given=np.full((6, 3), np.nan), truth=np.eye(3)[[0, 0, 1, 1, 2, 2]]), "finite"),
        (Evidence(given=np.zeros((0, 3)), truth=np.zeros((0, 3))), "patients of a"),
    ],
)
def test_classes_that_cannot_be_resolved_say_why(evidence, reason):
    auc = of_classes(evidence, LABELS, rng=rng()).auc
    assert auc.value is None
    assert reason in auc.reason


def test_an_error_is_in_the_label_s_own_unit_with_an_interval_over_patients():
    given = np.array([[10.0, 1.0], [20.0, 1.0], [40.0, 2.0]])
    truth = np.array([[11.0, 1.0], [18.0, 1.0], [40.0, 2.0]])
    age, dose = of_numbers(Evidence(given=given, truth=truth), ("age", "dose"), rng=rng()).figures
    assert (age.name, age.interval.value) == ("mean absolute error of age", 1.0)
    assert age.interval.low < 1 < age.interval.high
    assert (dose.interval.value, dose.interval.high) == (0, 0)


def test_a_patient_weighs_the_same_with_one_image_or_many():
    values = [[1.0], [3.0], [5.0], [np.nan]]
    evidence = by_patient(values, np.zeros((4, 1)), [7, 7, 9, 9])
    assert evidence.given.tolist() == [[2.0], [5.0]]
    both = task_scores.pooled({"x": evidence, "y": evidence})
    assert both.given.shape == (4, 1)


def test_a_class_that_nobody_has_is_not_resolved_and_not_counted_as_found():
    given = np.array([[0.5, np.nan], [0.7, np.nan]])
    evidence = Evidence(given=given, truth=given)
    figures = of_masks(evidence, ("a", "b"), rng=rng()).figures
    dice = {figure.name: figure.interval for figure in figures}
    assert dice["Dice of a"].value == pytest.approx(0.6)
    assert dice["Dice of b"].value is None
    assert "0 patients" in dice["Dice of b"].reason


@pytest.mark.parametrize("volume", [False, True])
def test_overlap_is_monai_s_dice_and_distance_per_image_and_class(volume):
    shape = (3, 4, 12, 12) if volume else (3, 12, 12)
    masks = torch.zeros(shape, dtype=torch.uint8)
    masks[0, ..., 2:6, 2:6] = 1
    masks[1, ..., 2:6, 2:6] = 2
    guess = masks.clone()
    guess[0, ..., 2:6, 2:6] = 0
    guess[0, ..., 2:6, 4:8] = 1  # half of it, two pixels off
    guess[1] = 0  # missed
    guess[2, ..., 0, 0] = 1  # found where nothing is
    dice, distance = overlap(guess, masks, classes=2)
    assert dice[0, 0] == pytest.approx(0.5)
    assert distance[0, 0] == pytest.approx(2.0)
    assert dice[1, 1] == 0
    assert distance[1, 1] == pytest.approx(np.sqrt(sum(side**2 for side in shape[1:])))
    assert np.isnan(dice[[0, 1, 2, 2], [1, 0, 0, 1]]).all()
    assert np.isnan(distance[[0, 1, 2, 2], [1, 0, 0, 1]]).all()


def hospital(study, targets, patients=6):
    data = study.data
    sides = (data.depth,) * (data.depth > 1) + (data.image_size,) * 2
    random = np.random.default_rng(3)
    return SimpleNamespace(
        images=random.random((2 * patients, 1, *sides)).astype(np.float16),
        targets=targets,
        labels=targets if targets.ndim == 2 else np.zeros((2 * patients, 0), np.float32),
        patient_of_image=np.repeat(np.arange(patients), 2),
        split=np.full(patients, Split.TEST),
        patients=lambda split: np.arange(patients) if split == Split.TEST else np.arange(0),
        sex=np.zeros(patients, np.uint8),
        age_band=np.zeros(patients, np.uint8),
        meta={},
    )


TASKS = {
    "classification": (
        {"task": "classification", "labels": ["a", "b"]},
        "small_cnn",
        np.eye(2, dtype=np.float32)[np.arange(12) // 2 % 2],
        "accuracy",
    ),
    "regression": (
        {"task": "regression", "ranges": [[0, 90]]},
        "small_cnn",
        np.linspace(0, 90, 12, dtype=np.float32)[:, None],
        "mean absolute error of sick",
    ),
    "segmentation": (
        {"task": "segmentation"},
        "unet",
        np.ones((12, 16, 16), dtype=np.uint8),
        "Dice of sick",
    ),
    "volumes": (
        {"task": "segmentation", "depth": 8},
        "segresnet",
        np.ones((12, 8, 16, 16), dtype=np.uint8),
        "HD95 of sick, pixels",
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_model_of_any_task_is_scored_at_each_hospital_and_over_all(tiny, name):
    data, model, targets, figure = TASKS[name]
    study = tiny.study(data=data, model={"name": model})
    cohorts = {site: hospital(study, targets) for site in ("north", "south")}
    tested = evaluate.Tested(study, cohorts, seed=0)
    vector = to_vector(network_of(study))
    score = tested.score("federated", vector, private=True)
    assert set(score.per_site) == {"north", "south"}
    assert score.pooled.patients == 12
    figures = {entry.name: entry.interval for entry in score.pooled.figures}
    assert figures[figure].value is not None
    assert figures[figure].low <= figures[figure].value <= figures[figure].high
    assert tested.auc(vector) == score.pooled.auc.value
    assert (score.pooled.auc.value is None) == (name != "classification")
    assert tested.subgroups(vector) == ()
    with pytest.raises(DataError, match="no such accuracy"):
        tested.accuracy(vector)


def test_a_volume_larger_than_the_window_is_seen_window_by_window():
    seen = []

    def network(images):
        seen.append(tuple(images.shape[2:]))
        return torch.cat([images, -images], dim=1)

    images = torch.rand((1, 1, 12, 20, 16), generator=torch.Generator().manual_seed(0))
    whole = evaluate.masks_of(network, images, window=(8, 16, 16))
    assert set(seen) == {(8, 16, 16)}
    assert whole.shape == (1, 2, 12, 20, 16)
    assert torch.allclose(whole[:, :1], images, atol=1e-6)
    seen.clear()
    evaluate.masks_of(network, images, window=(12, 20, 16))
    assert seen == [(12, 20, 16)]
