import re

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from septum.errors import ConfigError, DataError
from septum_bench.attacks.inversion import InversionConfig
from septum_bench.leakage import (
    LEVEL,
    Gallery,
    Targets,
    judge,
    measure_leakage,
    score_attack,
    smallest_leak,
)
from septum_bench.threat import RELEASED, UNPROTECTED, KnownNoise

SIZE, CROWD, TARGETS = 16, 40, 6
RNG = np.random.default_rng(0)


def people(count, seed):
    rng = np.random.default_rng(seed)
    rough = rng.random((count, 1, 4, 4)).astype(np.float32)
    return nn.functional.interpolate(torch.from_numpy(rough), size=SIZE, mode="bilinear").numpy()


CROWD_IMAGES, PUBLIC = people(CROWD, 1), people(60, 2)
NAMES = tuple(f"p{i}" for i in range(CROWD))
GALLERY = Gallery(images=CROWD_IMAGES, patients=NAMES)
VICTIMS = Targets(
    images=CROWD_IMAGES[:TARGETS],
    labels=np.array([[0], [1], [0], [1], [0], [1]], np.float32),
    patients=NAMES[:TARGETS],
    sites=("north", "south") * 3,
)


def row(identified, *, released=False, targets=TARGETS):
    """An attack that names so many targets and hands in noise for the others."""
    made = RNG.random((TARGETS, SIZE, SIZE)).astype(np.float32)
    for i in range(TARGETS):
        made[i] = CROWD_IMAGES[i if i < identified else i + 10, 0]
    return score_attack(
        made,
        threat=RELEASED if released else UNPROTECTED,
        targets=VICTIMS,
        gallery=GALLERY,
        public_images=PUBLIC,
        config=InversionConfig(),
        seconds=1.0,
        rng=np.random.default_rng(0),
    )


@pytest.mark.parametrize("identified", range(TARGETS + 1))
def test_a_row_counts_first_places_and_bounds_them_exactly(identified):
    found = row(identified)
    assert found.identified == identified
    assert [t.rank == 1 for t in found.targets] == [i < identified for i in range(TARGETS)]
    low, value, high = (getattr(found.identification, key) for key in ("low", "value", "high"))
    assert low <= value == identified / TARGETS <= high


def test_gains_are_measured_above_the_best_blind_guess():
    found = row(TARGETS)
    assert found.psnr_gain.low > 0
    assert found.ssim_gain.low > 0
    blind = row(0)
    assert blind.psnr_gain.high < 0


@pytest.mark.parametrize(("control", "void"), [(0, True), (1, True), (3, True), (4, False)])
def test_the_verdict_is_void_when_the_control_fails_whatever_the_release_shows(control, void):
    for release in (0, TARGETS):
        verdict, sentence = judge(row(control), row(release, released=True))
        assert (verdict == "void") == void
        assert sentence.startswith("Void") == void


def test_a_release_that_names_patients_above_chance_is_a_leak():
    assert judge(row(6), row(2, released=True))[0] == "leak"


def test_an_unrefuted_release_states_attacker_score_chance_power_and_no_more():
    verdict, sentence = judge(row(6), row(0, released=True))
    assert verdict == "not refuted"
    for part in (RELEASED.attacker, "0 of 6", "2.5%", "p = 1", "named 6 of 6", "With 6 targets"):
        assert part in sentence
    assert not re.search(r"\b(safe|anonymous|verified|private|secure|proven)\b", sentence, re.I)


def test_the_smallest_leak_is_the_rate_found_in_four_of_five_cases():
    for targets, chance in ((6, 1 / 150), (12, 1 / 40), (30, 0.1)):
        rate = smallest_leak(targets, chance)
        needed = next(k for k in range(targets + 1) if binom.sf(k - 1, targets, chance) < LEVEL)
        assert binom.sf(needed - 1, targets, rate) == pytest.approx(0.8)
    assert smallest_leak(1, 0.5) is None


class Glass(nn.Module):
    """A linear model: its gradient is the image itself, so inversion cannot miss."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIZE * SIZE, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image.flatten(1))


def measure(released, *, noise=None, seed=0):
    torch.manual_seed(0)
    network = Glass()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    factor = 0.5 - VICTIMS.labels
    flat = ((VICTIMS.images - 0.5) / 0.25).reshape(TARGETS, -1)
    exact = np.hstack([factor * flat, factor]).astype(np.float32)
    return measure_leakage(
        network=network,
        targets=VICTIMS,
        gallery=GALLERY,
        public_images=PUBLIC,
        unprotected=exact,
        released=released(exact),
        noise=noise,
        config=InversionConfig(iterations=100, seed=seed),
        rng=np.random.default_rng(0),
        clock=lambda: 0.0,
    )


def noise_alone(exact):
    return np.random.default_rng(5).normal(size=exact.shape).astype(np.float32)


def test_releasing_the_unprotected_gradient_is_called_a_leak():
    found = measure(lambda exact: exact)
    assert found.verdict == "leak"
    assert found.release.identified == TARGETS


def test_releasing_noise_alone_is_not_refuted():
    found = measure(noise_alone, noise=KnownNoise(std=1.0, signal_norm=0.1))
    assert found.verdict == "not refuted"
    assert found.control.identified == TARGETS
    assert not found.control.protected
    assert found.release.protected


def test_equal_seeds_give_equal_records():
    assert measure(noise_alone).model_dump_json() == measure(noise_alone).model_dump_json()


def test_both_arms_are_scored_against_the_same_line_up_and_budget():
    found = measure(noise_alone)
    assert found.control.gallery == found.release.gallery == CROWD
    assert found.control.iterations == found.release.iterations
    assert [t.prior_psnr for t in found.control.targets] == [
        t.prior_psnr for t in found.release.targets
    ]


def test_a_vector_of_another_network_is_refused():
    with pytest.raises(ConfigError, match="observed"):
        measure(lambda exact: exact[:, :-1])


def test_the_same_patient_twice_among_the_targets_is_refused():
    with pytest.raises(DataError, match="5 patients"):
        Targets(
            images=VICTIMS.images,
            labels=VICTIMS.labels,
            patients=(*NAMES[:5], NAMES[0]),
            sites=VICTIMS.sites,
        )
