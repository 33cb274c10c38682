"""Membership by loss, LiRA and RMIA: each finds what it should, and needs what it says."""

import numpy as np
import pytest
import torch
from torch import nn

from septum.errors import ConfigError
from septum_bench.attacks.membership import MembershipView, lira, loss_threshold, rmia
from septum_bench.attacks.shadow import Pool, ShadowRecipe, halves, patient_losses, train_shadow
from septum_bench.audit.membership import HOLDER
from septum_bench.audit.roc import Stratum, area
from septum_bench.threat import Grant, ThreatModel

PEOPLE, SHADOWS = 200, 8


def look(*, effect, seed=0, threat=HOLDER):
    """Losses that differ much between candidates, and by ``effect`` for those trained on."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=PEOPLE) * 1.5 - 1
    member = rng.permutation(np.arange(PEOPLE) < PEOPLE // 2)
    who = halves(SHADOWS, PEOPLE, rng=rng)

    def losses(inside):
        return np.log1p(np.exp(hard - effect * inside + rng.normal(size=inside.shape) * 0.5))

    view = MembershipView(
        threat=threat, losses=losses(member), shadow_losses=losses(who), shadow_members=who
    )
    return view, member


def found(attack, view, member):
    scores = attack(view)
    return area([Stratum(inside=scores[member], outside=scores[~member])])


def test_shadow_models_find_members_that_a_threshold_misses():
    view, member = look(effect=1.0)
    threshold = found(loss_threshold, view, member)
    assert found(lira, view, member) > threshold + 0.1 > 0.6
    assert found(rmia, view, member) > threshold + 0.05


@pytest.mark.parametrize("attack", [loss_threshold, lira, rmia])
def test_a_model_that_forgot_everybody_is_at_chance(attack):
    areas = [found(attack, *look(effect=0.0, seed=seed)) for seed in range(20)]
    assert abs(np.mean(areas) - 0.5) < 0.03


def test_the_ratio_of_rmia_is_a_share_of_the_other_candidates():
    scores = rmia(look(effect=1.0)[0])
    assert scores.min() == 0.0
    assert scores.max() == 1.0


def test_shadow_models_that_the_threat_does_not_grant_are_refused():
    poor = ThreatModel(
        name="poor", attacker="a", protected=True, holds={Grant.CANDIDATES: "c", Grant.MODEL: "m"}
    )
    with pytest.raises(ConfigError, match="shadow pool"):
        look(effect=1.0, threat=poor)
    bare = MembershipView(threat=poor, losses=np.ones(3))
    assert loss_threshold(bare).tolist() == [-1.0] * 3
    with pytest.raises(ConfigError, match="no shadow models"):
        lira(bare)


def test_a_candidate_in_every_shadow_model_is_refused():
    who = np.ones((4, 3), bool)
    with pytest.raises(ConfigError, match="0 shadow models"):
        MembershipView(
            threat=HOLDER, losses=np.ones(3), shadow_losses=np.ones((4, 3)), shadow_members=who
        )


def test_each_patient_trains_exactly_half_of_the_shadow_models():
    who = halves(6, 50, rng=np.random.default_rng(0))
    assert (who.sum(axis=0) == 3).all()


def test_a_shadow_model_learns_its_members_and_losses_are_means_over_a_patients_images():
    rng = np.random.default_rng(0)
    pool = Pool(
        images=rng.random((12, 1, 8, 8)).astype(np.float32),
        targets=rng.integers(0, 2, (12, 1)).astype(np.float32),
        owner=np.repeat(np.arange(6), 2),
    )

    def loss(logits, labels):
        each = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return each.mean(dim=1)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    before = patient_losses(network, pool, loss=loss)
    inside = np.arange(6) < 3
    train_shadow(network, pool, inside, loss=loss, recipe=ShadowRecipe(steps=200), rng=rng)
    after = patient_losses(network, pool, loss=loss)
    assert after[inside].max() < 0.2 < before[inside].mean()
    with torch.no_grad():
        rows = loss(
            network(torch.from_numpy((pool.images - 0.5) / 0.25)), torch.from_numpy(pool.targets)
        )
    assert after == pytest.approx(rows.numpy().reshape(6, 2).mean(axis=1), rel=1e-5)
