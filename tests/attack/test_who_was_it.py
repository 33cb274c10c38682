"""Whose data was it: the attacks reach their optimum, keep to the bound, and fail on nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from septum.accounting import Charge
from septum.models import network_of, to_vector
from septum_bench.attacks.likelihood import StepNoise, matched_filter
from septum_bench.attacks.properties import PropertyView, property_scores
from septum_bench.attacks.shadow import ShadowRecipe
from septum_bench.attacks.source_site import SourceView, guess_site
from septum_bench.audit.finding import Verdict, settle
from septum_bench.audit.identification import INFORMED, identify
from septum_bench.audit.lineups import alarms, found_at, run_trials
from septum_bench.audit.membership import members
from septum_bench.audit.participation import took_part
from septum_bench.audit.property import PROBER, properties
from septum_bench.audit.robustness import blow_up
from septum_bench.audit.roc import Stratum, area
from septum_bench.audit.source_hospital import PLACER, place
from septum_bench.audit.subject import NotApplicable, Subject
from septum_bench.metrics import exact_binomial
from septum_bench.seeded import SeededSource
from septum_client.train import train

PATIENTS, ROUNDS = 48, 2
CANARIES = np.eye(64)[None]


def trials(*, seed=0, count=4_000, sigma=1.0, heard=None, **options):
    return run_trials(
        CANARIES,
        trials=count,
        noise=StepNoise(std=sigma, rate=1.0, steps=1),
        observations=1,
        threat=INFORMED,
        rng=np.random.default_rng(seed),
        heard=heard,
        **options,
    )


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_orthogonal_canaries_come_within_a_fifth_of_the_bound_and_never_pass_it(sigma):
    found = trials(sigma=sigma, count=10_000)
    gamma = blow_up(1 / 64, Charge(noise_multiplier=sigma, sampling_rate=1.0, steps=1))
    assert found.interval[0] <= gamma
    assert found.optimum.mean() > 0.8 * gamma
    assert found.interval[1] >= 0.95 * found.optimum.mean()


def test_a_mechanism_with_half_the_noise_is_caught_by_the_bound():
    gamma = blow_up(1 / 64, Charge(noise_multiplier=1.0, sampling_rate=1.0, steps=1))
    found = trials(sigma=0.5)
    assert binomtest(found.named, 4_000, gamma, alternative="greater").pvalue < 1e-6


def test_knowing_sampling_names_more_than_a_matched_filter():
    noise = StepNoise(std=0.5, rate=0.1, steps=1)
    options = {"trials": 3_000, "noise": noise, "observations": 20, "threat": INFORMED}
    best = run_trials(CANARIES, rng=np.random.default_rng(0), **options)
    plain = run_trials(CANARIES, rng=np.random.default_rng(0), attack=matched_filter, **options)
    assert best.interval[0] > plain.interval[1]


def test_null_runs_cover_chance_on_at_least_nineteen_of_twenty_seeds():
    strangers = np.roll(np.pad(CANARIES, ((0, 0), (0, 0), (0, 64))), 64, axis=2)
    lined = np.pad(CANARIES, ((0, 0), (0, 0), (0, 64)))
    covered = 0
    for seed in range(40):
        found = run_trials(
            lined,
            trials=1_000,
            noise=StepNoise(std=1.0),
            observations=1,
            threat=INFORMED,
            rng=np.random.default_rng(seed),
            heard=strangers,
        )
        low, high = exact_binomial(found.named, 1_000)
        covered += low <= 1 / 64 <= high
    assert covered >= 38


def test_an_open_set_attack_keeps_its_false_alarms():
    options = {"noise": StepNoise(std=0.5), "threat": INFORMED}
    absent = alarms(CANARIES, trials=4_000, rng=np.random.default_rng(1), **options)
    again = alarms(CANARIES, trials=4_000, rng=np.random.default_rng(2), **options)
    threshold = np.quantile(absent, 0.99, method="higher")
    assert exact_binomial(int((again > threshold).sum()), 4_000)[0] <= 0.01 * 1.5
    found = found_at(trials(sigma=0.5), absent, false_alarms=0.01)
    assert 0.05 < found.mean() < trials(sigma=0.5).share


def make_subject(tiny, folder, *, noise_multiplier=1.0):
    """Two hospitals and two rounds through the real training code."""
    study = tiny.study(
        sites=[{"name": name, "patients": PATIENTS // 2} for name in ("north", "south")],
        rounds=ROUNDS,
        privacy={"steps_per_round": 1, "noise_multiplier": noise_multiplier},
    )
    cohorts = {}
    for seed, site in enumerate(("north", "south")):
        pixels = np.random.default_rng(seed).random((PATIENTS, 1, 16, 16))
        cohorts[site] = tiny.cohort(
            folder / site, study, images=(1,) * PATIENTS, held_out=PATIENTS // 2, pixels=pixels,
            seed=seed,
        )  # fmt: skip
    source, releases = SeededSource(3), {}
    models = {0: to_vector(network_of(study))}
    for number in range(1, ROUNDS + 1):
        for site, cohort in cohorts.items():
            releases[site, number] = train(
                study,
                mechanism=study.mechanism(site),
                cohort=cohort,
                model=models[number - 1],
                randomness=source(site, study.digest, number),
            ).vector
        mean = np.mean([releases[site, number] for site in cohorts], axis=0)
        models[number] = (models[number - 1] + mean).astype(np.float32)
    public = np.zeros((4, 1, 16, 16), np.float32)
    return Subject(
        study=study, cohorts=cohorts, models=models, releases=releases, source=source,
        public_images=public,
    )  # fmt: skip


@pytest.fixture(scope="module")
def subject(tiny, tmp_path_factory):
    torch.set_num_threads(1)
    return make_subject(tiny, tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="module")
def loud(tiny, tmp_path_factory):
    return make_subject(tiny, tmp_path_factory.mktemp("loud"), noise_multiplier=0.1)


def by_key(findings):
    return {finding.key: finding for finding in settle(findings)}


def test_somebody_informed_names_no_more_than_the_mechanism_allows(subject):
    found = by_key(identify(subject, rng=np.random.default_rng(0)))
    assert set(found) == {"identification", "open-set"}
    for finding in found.values():
        assert finding.verdict is Verdict.NOT_REFUTED
        assert finding.control.value > 0.5 > finding.release.value
        assert finding.release.value > finding.null.value
    closed = found["identification"]
    assert closed.null.low <= closed.chance <= closed.null.high
    assert closed.release.low > closed.chance


def test_the_releases_of_a_loud_study_name_who_took_part_and_of_a_quiet_one_less(subject, loud):
    quiet = by_key(took_part(subject, rng=np.random.default_rng(0)))
    found = by_key(took_part(loud, rng=np.random.default_rng(0)))
    assert set(found) == {"participation", "line-up", "membership-rounds"}
    assert found["participation"].verdict is Verdict.REFUTED
    assert found["participation"].release.low > quiet["participation"].release.value
    for finding in (*found.values(), *quiet.values()):
        few = finding.key == "line-up" and finding.control.trials < 6
        assert finding.control_ok or few  # five of five line-ups prove nothing
        assert finding.control.value >= finding.release.value - 0.05
    for finding in (found["participation"], quiet["participation"], quiet["line-up"]):
        assert finding.null.low <= finding.chance <= finding.null.high
    # Of two hospitals the other one is the comparison, so nobody is left for a null.
    assert found["membership-rounds"].null is None


def test_a_short_private_study_leaves_members_of_its_model_at_chance(subject):
    found = by_key(
        members(subject, rng=np.random.default_rng(0), recipe=ShadowRecipe(steps=30, batch=32))
    )
    assert set(found) == {"membership-loss", "membership-lira", "membership-rmia"}
    for finding in found.values():
        assert finding.verdict is not Verdict.REFUTED
        assert finding.null.low <= 0.5 <= finding.null.high
        assert "not resolvable: 1.0% FPR needs 1,000 non-members" in finding.sentence
    assert found["membership-lira"].control_ok


def test_equal_generators_give_equal_findings(subject):
    def once():
        found = identify(subject, rng=np.random.default_rng(5))
        return [finding.model_dump_json() for finding in found]

    assert once() == once()


def test_a_probe_finds_the_property_it_can_see_and_none_where_none_is(subject):
    found = by_key(properties(subject, rng=np.random.default_rng(0)))
    assert {"property-sick", "property-scanner"} <= set(found)
    for finding in found.values():
        assert finding.null.low < 0.5 < finding.null.high
        assert abs(finding.null.value - 0.5) < 0.05
        assert finding.verdict is Verdict.VOID or finding.control.low > 0.75
    # The label is in every gradient's sign: what all patients share, no clip hides.
    assert found["property-sick"].control.value > 0.95
    noisy = StepNoise(std=1e9)
    view = PropertyView(
        threat=PROBER,
        released=np.random.default_rng(0).normal(size=(400, 6)) * 1e9,
        pool=np.random.default_rng(1).normal(size=(20, 6)),
        pool_has=np.arange(20) < 10,
        noise=noisy,
        drawn=10.0,
    )
    scores = property_scores(view)
    assert abs(area([Stratum(inside=scores[:200], outside=scores[200:])]) - 0.5) < 0.1


def test_what_a_subject_lacks_is_said_and_not_guessed(subject):
    rng = np.random.default_rng(0)
    for probe, without in (
        (identify, {"releases": {}}),
        (took_part, {"source": None}),
        (members, {"models": {}}),
    ):
        with pytest.raises(NotApplicable):
            probe(replace(subject, **without), rng=rng)


def test_a_hospital_is_placed_beyond_its_look_only_where_the_model_shows_more(subject):
    rng = np.random.default_rng(0)
    site = np.repeat([0, 1], 30)
    told = rng.normal(size=(60, 8)) + 3 * np.eye(8)[site]
    view = SourceView(threat=PLACER, pool=told[::2], pool_site=site[::2], candidates=told[1::2])
    assert (guess_site(view) == site[1::2]).mean() > 0.9
    (found,) = place(subject, rng=rng, recipe=ShadowRecipe(steps=20))
    # Both hospitals are the same noise, so neither image nor model tells them apart.
    assert found.chance < 0.75
    assert settle([found])[0].verdict is not Verdict.REFUTED
