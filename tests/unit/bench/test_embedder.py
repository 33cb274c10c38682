"""Ranking reconstructions: an embedder of public images names whom correlation cannot."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from septum.errors import DataError
from septum_bench.attacks.embedder import FEWEST, Embedder
from septum_bench.attacks.similarity import blind_guesses, ranks
from septum_bench.phantoms.public import public_images

SIDE = 32
PUBLIC = public_images(120, SIDE, 1)[:, 0]
GALLERY = public_images(60, SIDE, 2)[:, 0]
NAMES = [f"p{place}" for place in range(len(GALLERY))]


def learned(seed=0):
    return Embedder.fit(PUBLIC, rng=np.random.default_rng(seed))


def placed(copies, embed=None):
    return ranks(
        copies,
        patients=NAMES[: len(copies)],
        gallery=GALLERY,
        gallery_patients=NAMES,
        public_mean=blind_guesses(PUBLIC)[0],
        embed=embed,
    )


def poor_copies(images, rng):
    soft = np.stack([gaussian_filter(image, 2.5) for image in images])
    return (soft + 0.1 * rng.standard_normal(images.shape)).astype(np.float32)


def test_bad_copies_of_strangers_are_named_far_more_often_than_by_correlation():
    copies = poor_copies(GALLERY, np.random.default_rng(3))
    plain, embedded = (placed(copies, embed) for embed in (None, learned().embed))
    assert (embedded == 1).sum() > (plain == 1).sum() + len(GALLERY) / 4


def test_copies_of_people_outside_the_gallery_name_nobody_beyond_chance():
    others = public_images(len(GALLERY), SIDE, 4)[:, 0]
    found = placed(poor_copies(others, np.random.default_rng(3)), learned().embed)
    assert (found == 1).sum() <= 5  # 1 is expected; 6 or more come by chance once in 1,700 runs
    assert np.median(found) > 10


def test_equal_images_and_seeds_teach_the_same():
    assert np.array_equal(learned().basis, learned().basis)
    assert not np.array_equal(learned().basis, learned(1).basis)


def test_the_mean_image_and_what_is_no_number_come_last():
    blank = np.stack([learned().mean.reshape(SIDE, SIDE), np.full((SIDE, SIDE), np.nan)])
    assert np.abs(learned().embed(blank)).max() == 0
    assert placed(blank, learned().embed).tolist() == [len(GALLERY)] * 2


def test_too_few_images_teach_nothing():
    with pytest.raises(DataError, match="teach no embedder"):
        Embedder.fit(PUBLIC[: FEWEST - 1], rng=np.random.default_rng(0))
