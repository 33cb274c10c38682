import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from septum.errors import DataError
from septum_bench.attacks.similarity import PSNR_CEILING, blind_guesses, psnr, ranks, ssim

RNG = np.random.default_rng(0)
PEOPLE = RNG.random((5, 16, 16)).astype(np.float32)
NAMES = ("a", "b", "c", "d", "e")
MEAN = np.full((16, 16), 0.5, np.float32)


def place(made, patients, *, gallery=PEOPLE, names=NAMES, mean=MEAN):
    found = ranks(
        np.asarray(made, np.float32),
        patients=patients,
        gallery=gallery,
        gallery_patients=names,
        public_mean=mean,
    )
    return found.tolist()


def test_an_error_of_a_tenth_everywhere_is_twenty_decibels():
    truth = np.full((2, 16, 16), 0.5, np.float32)
    assert psnr(truth + np.float32(0.1), truth) == pytest.approx([20, 20], abs=1e-4)


def test_psnr_is_per_image_and_equals_scikit_image_at_range_one():
    one, other = PEOPLE[:2], PEOPLE[2:4]
    expected = [
        peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(other, one, strict=True)
    ]
    assert psnr(one, other) == pytest.approx(expected, rel=1e-5)


def test_equal_images_are_finite_at_the_ceiling_and_wholly_similar():
    assert psnr(PEOPLE, PEOPLE).tolist() == [PSNR_CEILING] * 5
    assert ssim(PEOPLE, PEOPLE) == pytest.approx([1] * 5)


def test_ssim_of_two_flat_images_is_wang_s_luminance_term():
    dark, light = np.full((1, 16, 16), 0.2, np.float32), np.full((1, 16, 16), 0.6, np.float32)
    c1 = 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert ssim(dark, light) == pytest.approx([expected], rel=1e-4)


def test_images_of_unlike_shape_are_refused():
    with pytest.raises(DataError):
        psnr(PEOPLE, PEOPLE[:2])


def test_blind_guesses_are_the_mean_public_image_and_the_one_nearest_to_it():
    public = np.stack([np.full((4, 4), level, np.float32) for level in (0.0, 0.4, 0.9)])
    mean, nearest = blind_guesses(public)
    assert mean == pytest.approx(np.full((4, 4), 1.3 / 3), abs=1e-6)
    assert nearest.tolist() == public[1].tolist()


def test_a_faithful_image_names_its_patient_whatever_its_contrast_and_brightness():
    assert place(0.4 * PEOPLE + 0.1, NAMES, mean=np.zeros_like(MEAN)) == [1] * 5


def test_another_patients_image_does_not():
    assert all(rank > 1 for rank in place(PEOPLE, ("b", "c", "d", "e", "a")))


def test_the_patient_counts_not_the_file():
    second_film = np.concatenate([PEOPLE, PEOPLE[:1][:, ::-1]])
    names = (*NAMES, "a")
    assert place(PEOPLE[:1][:, ::-1], ("a",), gallery=second_film, names=names) == [1]
    crowd = np.concatenate([PEOPLE[1:], np.repeat(PEOPLE[:1], 9, axis=0)])
    # Nine files of "a" are one competitor: "b" cannot fall below second place through them.
    assert place(0.6 * PEOPLE[:1] + 0.4 * PEOPLE[1:2], ("b",), gallery=crowd,
                 names=("b", "c", "d", "e", *["a"] * 9)) == [2]  # fmt: skip


def test_a_tie_counts_for_the_attacker():
    twins = np.concatenate([PEOPLE, PEOPLE[:1]])
    assert place(PEOPLE[:1], ("twin",), gallery=twins, names=(*NAMES, "twin")) == [1]


def test_a_picture_without_pattern_names_nobody():
    nothing = np.stack([MEAN, MEAN + np.float32(0.2), np.full_like(MEAN, np.nan)])
    assert place(nothing, ("a", "b", "c")) == [5, 5, 5]


def test_knowing_nothing_names_each_patient_equally_often():
    noise = RNG.random((3000, 16, 16))
    targets = [NAMES[i] for i in RNG.integers(5, size=3000)]
    assert np.mean(np.array(place(noise, targets)) == 1) == pytest.approx(0.2, abs=0.03)


def test_a_target_that_is_not_in_the_line_up_is_refused():
    with pytest.raises(DataError, match="1 of 2"):
        place(PEOPLE[:2], ("a", "stranger"))
