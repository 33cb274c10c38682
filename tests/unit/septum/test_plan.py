import dataclasses
import sys
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.accounting import epsilon
from septum.caps import Caps
from septum.errors import ConfigError
from septum.plan import Setup, afford, curves, noise_needed, of_study
from septum.plan_picture import draw

PLAN = Setup(noise_multiplier=2.5, sampling_rate=0.1, steps=5, rounds=60, delta=1e-5, patients=400)
ROOMY = Caps(epsilon_per_study=90.0, epsilon_per_year=90.0, epsilon_total=90.0)


@settings(max_examples=10, deadline=None)
@given(
    cap=st.floats(0.5, 6),
    year=st.floats(0.5, 6),
    total=st.floats(0.5, 6),
    noise=st.floats(0.3, 3),
)
def test_what_is_affordable_fits_under_every_cap_and_one_round_more_under_not_all(
    cap, year, total, noise
):
    caps = Caps(epsilon_per_study=cap, epsilon_per_year=year, epsilon_total=total)
    found = afford(dataclasses.replace(PLAN, noise_multiplier=noise), caps)
    one = found.setup.charge

    def fits(rounds):
        every = [one] * rounds
        record = epsilon(every, delta=found.setup.delta) <= cap
        return record and caps.year.admits(every) and caps.total.admits(every)

    assert fits(found.rounds)
    assert found.rounds == PLAN.rounds or not fits(found.rounds + 1)
    assert found.setup.noise_multiplier == max(noise, caps.noise_floor)


def test_a_hospital_plans_what_its_gate_will_charge(tiny):
    study = tiny.study(rounds=9)
    policy = tiny.policy(epsilon_per_study=8.0, noise_floor=1.3, clip_ceiling=0.5, delta=1e-6)
    found = afford(of_study(study, site="north"), policy, max_grad_norm=study.privacy.max_grad_norm)
    agreed = policy.mechanism(study, site="north")
    assert found.setup.charge == agreed.charge()
    assert found.setup.delta == agreed.delta
    assert found.max_grad_norm == agreed.max_grad_norm
    assert 0 < found.rounds < 9


def test_a_site_that_the_study_does_not_name_is_said(tiny):
    with pytest.raises(ConfigError, match="elsewhere"):
        of_study(tiny.study(), site="elsewhere")


@pytest.mark.parametrize(
    ("name", "grows"),
    [
        ("rounds", True),
        ("noise multiplier", False),
        ("patients drawn in a step", True),
        ("training patients, same batch", False),
    ],
)
def test_each_curve_goes_the_way_that_theory_says(name, grows):
    values = [cost for _, cost in curves(PLAN, points=4)[name]]
    assert len(set(values)) > 2
    assert values == sorted(values, reverse=not grows)


def test_without_patients_there_is_no_curve_over_patients():
    assert set(curves(dataclasses.replace(PLAN, patients=0), points=3)) == {
        "rounds",
        "noise multiplier",
    }


def test_the_noise_that_a_plan_needs_brings_it_to_the_target():
    noise = noise_needed(PLAN, 2.0)
    assert dataclasses.replace(PLAN, noise_multiplier=noise).epsilon <= 2.0
    assert dataclasses.replace(PLAN, noise_multiplier=noise - 0.001).epsilon > 2.0


@pytest.mark.parametrize(("patients", "weak"), [(400, False), (20_000, True), (0, False)])
def test_a_delta_that_is_not_small_for_so_many_patients_is_noticed(patients, weak):
    assert afford(dataclasses.replace(PLAN, patients=patients), ROOMY).weak_delta is weak


def test_a_plan_is_drawn_the_same_bytes_every_time(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw(PLAN, limit=3.0, path=tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = " ".join(ET.parse(tmp_path / "a.svg").getroot().itertext())
    for said in ("rounds", "noise multiplier", "δ = 1e-05", f"ε {PLAN.epsilon:.2f}", "limit 3"):
        assert said in text


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"plan\.gif"):
        draw(PLAN, limit=3.0, path=tmp_path / "plan.gif")


def test_without_matplotlib_the_remedy_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="matplotlib") as refused:
        draw(PLAN, limit=3.0, path=tmp_path / "plan.svg")
    assert "septum[bench]" in refused.value.remedy
