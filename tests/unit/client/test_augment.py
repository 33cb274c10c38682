"""Views: each image by itself, from the injected randomness, inside [0, 1]."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septum_bench.seeded import SeededRandomness
from septum_client.augment import Radiograph, change_of

ALL = {"geometry": True, "tone": True, "mirror": True}


def films(count=5, channels=1, side=20, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((count, channels, side, side)).astype(np.float32))


def views(images, targets=None, *, seed=3, **kinds):
    targets = torch.zeros(len(images), 1) if targets is None else targets
    return Radiograph(**(ALL | kinds))(images, targets, SeededRandomness(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), one=st.integers(0, 4))
def test_no_image_moves_another_ones_view(seed, one):
    images = films()
    other = images.clone()
    other[one] = films(seed=9)[one]
    changed, again = views(images, seed=seed)[0], views(other, seed=seed)[0]
    rest = [i for i in range(5) if i != one]
    assert torch.equal(changed[rest], again[rest])
    assert not torch.equal(changed[one], again[one])


@pytest.mark.parametrize("kinds", [{}, {"tone": False}, {"geometry": False, "mirror": False}])
def test_values_stay_between_black_and_white_and_shapes_stay(kinds):
    images = films(channels=2)
    changed, _ = views(images, **kinds)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images)


def test_the_same_draws_give_the_same_views_and_other_draws_others():
    images = films()
    assert torch.equal(views(images)[0], views(images)[0])
    assert not torch.equal(views(images)[0], views(images, seed=4)[0])


def test_the_number_of_draws_depends_on_shapes_alone():
    class Counting(SeededRandomness):
        asked = 0

        def uniform(self, count):
            self.asked += count
            return super().uniform(count)

        def normal(self, count, out=None):
            self.asked += count
            return super().normal(count, out)

    counts = set()
    for images in (films(), torch.zeros(5, 1, 20, 20)):
        chance = Counting(0)
        Radiograph(**ALL)(images, torch.zeros(5, 1), chance)
        counts.add(chance.asked)
    assert len(counts) == 1


def test_a_mirror_alone_swaps_left_and_right_in_about_half_of_the_views():
    images = films(count=200)
    changed, _ = views(images, geometry=False, tone=False)
    pairs = list(zip(changed, images, strict=True))
    swapped = np.array([torch.allclose(view, film.flip(-1), atol=1e-5) for view, film in pairs])
    kept = np.array([torch.allclose(view, film, atol=1e-5) for view, film in pairs])
    assert (swapped ^ kept).all()
    assert 70 < swapped.sum() < 130


def test_labels_stay_and_masks_move_with_their_images():
    blob = torch.zeros(6, 1, 32, 32)
    blob[:, :, 10:22, 6:14] = 1.0
    mask = (blob[:, 0] * 3).to(torch.uint8)
    changed, moved = views(blob, mask, tone=False)
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) == {0, 3}
    assert not torch.equal(moved, mask)
    agree = ((changed[:, 0] > 0.5) == (moved == 3)).float().mean()
    assert agree > 0.98
    labels = torch.ones(6, 2)
    assert torch.equal(views(blob, labels)[1], labels)


def test_a_study_without_augmentation_has_no_views(tiny):
    assert change_of(tiny.study()) is None


def test_each_switch_of_a_study_does_what_it_says(tiny):
    flat = torch.full((4, 1, 16, 16), 0.5)

    def changed(kind, images, **more):
        study = tiny.study(training={"augmentation": kind, **more})
        return change_of(study)(images, torch.zeros(4, 1), SeededRandomness(1))[0]

    assert torch.allclose(changed("geometry", flat), flat, atol=1e-6)
    assert not torch.allclose(changed("tone", flat), flat, atol=1e-2)
    assert not torch.allclose(changed("radiograph", flat), flat, atol=1e-2)
