"""The phantoms' anatomy and roster: attributes show, lesions are local, counts tell nothing."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from septum_bench.phantoms import (
    SCANNERS,
    Attributes,
    PhantomPlan,
    draw_attributes,
    grow,
    render,
)
from septum_bench.phantoms.roster import PATIENTS_WEIGHT, PREVALENCE, enrol
from septum_bench.phantoms.scanner import percentile_normalise


def chest(attributes: Attributes, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return render(rng, grow(rng, attributes), SCANNERS[0])


def test_the_default_plan_has_3000_films_and_unequal_hospitals() -> None:
    for seed in range(3):
        roster = enrol(PhantomPlan(seed=seed))
        assert len(roster) == 1200
        assert sum(each.films for each in roster) >= 3000
        sizes = Counter(each.site for each in roster)
        assert all(95 <= n <= 345 for n in sizes.values())
        assert max(sizes.values()) > 3 * min(sizes.values())
        for site, prevalence in enumerate(PREVALENCE):
            positive = sum(each.positive for each in roster if each.site == site)
            assert positive / sizes[site] == pytest.approx(prevalence, abs=0.01)
    assert len(set(PATIENTS_WEIGHT)) == len(set(PREVALENCE)) == 6


def test_the_number_of_films_does_not_tell_the_label() -> None:
    roster = enrol(PhantomPlan(patients=6000))
    means = [np.mean([e.films for e in roster if e.positive is ill]) for ill in (True, False)]
    assert means[0] == pytest.approx(means[1], abs=0.12)


@pytest.mark.parametrize(
    "change", [{"sex": "F"}, {"age_years": 85}, {"body_size": 1.8}], ids=["sex", "age", "size"]
)
def test_sex_age_and_size_change_the_anatomy(change: dict[str, object]) -> None:
    base = Attributes(sex="M", age_years=40, body_size=0.0)
    other = replace(base, **change)  # type: ignore[arg-type]
    assert np.abs(chest(base) - chest(other)).mean() > 0.01


def test_age_widens_the_heart_and_sex_brings_breasts() -> None:
    young, old = (
        grow(np.random.default_rng(1), Attributes(sex="F", age_years=age, body_size=0.0))
        for age in (25, 85)
    )
    assert old.heart_mm[2] > young.heart_mm[2]
    assert old.knob_mm > young.knob_mm
    man = grow(np.random.default_rng(1), Attributes(sex="M", age_years=25, body_size=0.0))
    assert young.breast_mm > 0.0 == man.breast_mm
    assert man.chest_mm > young.chest_mm


def test_a_lesion_changes_its_own_neighbourhood_and_nothing_else() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        attributes = Attributes(
            sex="M", age_years=60, body_size=0.0, lesion_mm=26.0, lesion_density=3.0
        )
        anatomy = grow(rng, attributes)
        plain = replace(SCANNERS[0], sharpen=0.0)
        ill = render(np.random.default_rng(9), anatomy, plain)
        healthy = render(np.random.default_rng(9), anatomy.without_lesion(), plain)
        change = ill - healthy
        row, column = np.unravel_index(change.argmax(), change.shape)
        rows, columns = np.indices(change.shape)
        far = np.hypot(rows - row, columns - column) > 10
        assert change.max() > 0.1
        assert np.abs(change[far]).max() < 0.05


def test_films_of_one_patient_differ_yet_resemble_each_other_more_than_strangers() -> None:
    films = []
    for person in range(12):
        rng = np.random.default_rng(person)
        anatomy = grow(rng, draw_attributes(rng, positive=False))
        films.append([render(rng, anatomy, SCANNERS[0], matrix=64) for _ in range(2)])
    first, second = (np.stack([pair[i] for pair in films]).reshape(12, -1) for i in (0, 1))
    distance = np.abs(first[:, None] - second[None]).mean(axis=-1)
    assert distance.diagonal().min() > 0.0
    assert distance.diagonal().mean() < 0.8 * distance[~np.eye(12, dtype=bool)].mean()


def test_area_resizing_keeps_the_mean() -> None:
    film = np.random.default_rng(0).random((96, 96), np.float32)
    low, high = np.percentile(film, (0.5, 99.5))
    expected = np.clip((film - low) / (high - low), 0, 1).mean()
    assert percentile_normalise(film, 64).mean() == pytest.approx(expected, abs=1e-5)
