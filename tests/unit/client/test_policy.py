import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.caps import load_caps
from septum.errors import Code, ConfigError, Refusal
from septum_client.policy import Policy, load
from septum_client.policy_reasons import REASONS
from septum_client.rules import Intake


def refusal(call):
    with pytest.raises(Refusal) as refused:
        call()
    return refused.value.code


def test_a_study_that_asks_less_noise_than_the_floor_is_tightened(tiny):
    study = tiny.study(privacy={"noise_multiplier": 0.3, "max_grad_norm": 4.0})
    agreed = Policy(noise_floor=0.9, clip_ceiling=1.5).mechanism(study, site="north")
    assert (agreed.noise_multiplier, agreed.max_grad_norm) == (0.9, 1.5)
    assert agreed.charge().noise_multiplier == 0.9


def test_a_study_stricter_than_the_policy_is_kept(tiny):
    study = tiny.study(privacy={"noise_multiplier": 3.0, "max_grad_norm": 0.1})
    agreed = Policy().mechanism(study, site="north")
    assert (agreed.noise_multiplier, agreed.max_grad_norm) == (3.0, 0.1)


def test_the_smaller_delta_counts(tiny):
    study = tiny.study(privacy={"delta": 1e-3})
    assert Policy(delta=1e-5).study_delta(study) == 1e-5
    assert Policy(delta=1e-2).study_delta(study) == 1e-3


def test_a_study_for_other_hospitals_is_not_allowed(tiny):
    code = refusal(lambda: Policy().mechanism(tiny.study(), site="elsewhere"))
    assert code is Code.STUDY_NOT_ALLOWED


HOSTILE = [
    pytest.param({}, {"models": ("resnet18",)}, Code.MODEL_NOT_ALLOWED, id="model"),
    pytest.param({}, {"tasks": ("regression",)}, Code.TASK_NOT_ALLOWED, id="task"),
    pytest.param({"purpose_of_use": "POARCH"}, {}, Code.PURPOSE_NOT_ALLOWED, id="purpose"),
    pytest.param({"commercial": True}, {}, Code.PURPOSE_NOT_ALLOWED, id="commercial"),
    pytest.param({"recipients": ["public"]}, {}, Code.RECIPIENT_NOT_ALLOWED, id="recipient"),
    pytest.param(
        {"recipients": ["participants", "acme"]}, {}, Code.RECIPIENT_NOT_ALLOWED, id="one too many"
    ),
]


@pytest.mark.parametrize(("study", "policy", "code"), HOSTILE)
def test_what_is_on_no_list_of_the_policy_is_refused_with_its_own_code(tiny, study, policy, code):
    asked = tiny.study(**study)
    assert refusal(lambda: Policy(**policy).mechanism(asked, site="north")) is code


def test_what_the_policy_lists_is_allowed(tiny):
    study = tiny.study(purpose_of_use="POARCH", commercial=True, recipients=["public"])
    policy = Policy(purposes=("POARCH",), commercial=True, recipients=("public", "acme"))
    assert policy.mechanism(study, site="north").steps == 2


@given(
    policy_numbers=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), st.floats(1e-9, 0.09)),
    study_numbers=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), st.floats(1e-9, 0.09)),
)
def test_the_stricter_number_of_policy_and_study_always_wins(tiny, policy_numbers, study_numbers):
    floor, ceiling, delta = policy_numbers
    noise, clip, study_delta = study_numbers
    study = tiny.study(
        privacy={"noise_multiplier": noise, "max_grad_norm": clip, "delta": study_delta}
    )
    policy = Policy(noise_floor=floor, clip_ceiling=ceiling, delta=delta)
    agreed = policy.mechanism(study, site="north")
    assert agreed.noise_multiplier == max(noise, floor)
    assert agreed.max_grad_norm == min(clip, ceiling)
    assert agreed.delta == policy.limits(study).delta == min(delta, study_delta)


def test_every_key_of_a_policy_has_its_reason_and_no_other_has():
    keys = {*Policy.model_fields, *(f"intake.{key}" for key in Intake.model_fields)}
    assert set(REASONS) == keys
    assert all(len(reason) > 30 for reason in REASONS.values())


def test_a_policy_file_says_why_beside_every_key():
    text = Policy().to_toml()
    lines = text.splitlines()
    keys = [number for number, line in enumerate(lines) if " = " in line and line[0] != "#"]
    assert len(keys) == len(Policy.model_fields) - 1 + len(Intake.model_fields)
    assert all(lines[number - 1].startswith("# ") for number in keys)
    assert all(len(line) <= 100 for line in lines)


def test_an_absent_policy_means_no(tmp_path):
    assert refusal(lambda: load(tmp_path / "policy.toml")) is Code.NO_POLICY


def test_a_policy_survives_toml(tmp_path):
    policy = Policy(epsilon_per_study=1.25, metrics=("update_norm",), models=("small_cnn",))
    (tmp_path / "policy.toml").write_text(policy.to_toml())
    assert load(tmp_path / "policy.toml") == policy


def test_a_plan_reads_the_same_limits_from_the_file_as_the_site_does(tmp_path):
    policy = Policy(epsilon_per_study=1.25, noise_floor=0.75, delta=1e-6)
    (tmp_path / "policy.toml").write_text(policy.to_toml())
    caps = load_caps(tmp_path / "policy.toml")
    assert caps.model_dump() == policy.model_dump(include=set(type(caps).model_fields))


@pytest.mark.parametrize("text", ["epsilon_total = 'much'", "= 3", "noise_floor = 0.01"])
def test_limits_that_cannot_be_read_are_one_sentence(tmp_path, text):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        load_caps(tmp_path / "policy.toml")
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_caps(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epsilon = 3", "unknown key 'epsilon'"),
        ("epsilon_total = 0", "epsilon_total"),
        ("epsilon_per_study = inf", "epsilon_per_study"),
        ("epsilon_per_study = nan", "epsilon_per_study"),
        ("noise_floor = 0", "noise_floor"),
        ("clip_ceiling = -1", "clip_ceiling"),
        ("delta = 1", "delta"),
        ("epsilon_per_year = -1", "epsilon_per_year"),
        ('tasks = ["diagnose"]', "tasks"),
        ('purposes = ["TREAT"]', "purposes"),
        ('recipients = ["ACME Inc."]', "recipients"),
        ('metrics = ["weights"]', "weights"),
        ('metrics = ["loss"]', "loss"),
        ("= 3", "policy.toml"),
    ],
)
def test_a_policy_that_cannot_be_used_names_its_key(tmp_path, line, words):
    (tmp_path / "policy.toml").write_text(line + "\n")
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "policy.toml")


def test_the_defaults_let_no_metric_about_the_update_out():
    assert Policy().metrics == ("steps",)
