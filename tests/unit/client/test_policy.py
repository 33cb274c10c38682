import pytest

from septum.errors import Code, ConfigError, Refusal
from septum_client.policy import Policy, load


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


def test_a_model_outside_the_policy_is_not_allowed(tiny):
    policy = Policy(models=("resnet18",))
    code = refusal(lambda: policy.mechanism(tiny.study(), site="north"))
    assert code is Code.STUDY_NOT_ALLOWED


def test_an_absent_policy_means_no(tmp_path):
    assert refusal(lambda: load(tmp_path / "policy.toml")) is Code.NO_POLICY


def test_a_policy_survives_toml(tmp_path):
    policy = Policy(epsilon_per_study=1.25, metrics=("update_norm",), models=("small_cnn",))
    (tmp_path / "policy.toml").write_text(policy.to_toml())
    assert load(tmp_path / "policy.toml") == policy


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
