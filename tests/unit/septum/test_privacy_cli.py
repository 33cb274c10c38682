import json
import re

import pytest
from typer.testing import CliRunner

from septum import cli
from septum.accounting import Charge, epsilon, noise_for
from septum.errors import ConfigError
from septum.registry import Record

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}
ROUNDS = ("--sampling-rate", 0.1, "--steps-per-round", 5, "--rounds", 12, "--delta", 1e-5)


def run(*arguments, fails=None):
    done = CliRunner().invoke(cli.build_app(), ["privacy", *map(str, arguments)], env=WIDE)
    if fails is not None:
        assert isinstance(done.exception, fails), done.output
        assert done.exception.remedy
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


@pytest.fixture
def study(tiny, tmp_path):
    """Return the path of a study whose hospitals have 10 patients each."""
    path = tmp_path / "study.toml"
    path.write_text(
        tiny.study(
            rounds=30, privacy={"noise_multiplier": 4.0, "sampling_rate": 0.2, "delta": 1e-3}
        ).to_toml()
    )
    return path


def test_noise_and_epsilon_are_each_others_inverse():
    noise = float(run("noise", "--epsilon", 2.5, *ROUNDS))
    assert noise == noise_for(target=2.5, delta=1e-5, sampling_rate=0.1, steps=60)
    said = run("epsilon", "--noise-multiplier", noise, *ROUNDS)
    shown = float(re.search(r"epsilon +([\d.]+) at delta 1e-05", said)[1])
    assert shown == pytest.approx(2.5, abs=0.01)
    assert shown <= float(re.search(r"check +([\d.]+)", said)[1])
    assert "one patient with all images at one hospital, added or removed" in said


def test_a_plan_of_numbers_says_what_the_rounds_cost_and_how_many_fit():
    said = run(
        "plan", "--noise-multiplier", 2, "--patients", 300, "--batch", 30,
        "--steps-per-round", 5, "--rounds", 12, "--delta", 1e-5,
    )  # fmt: skip
    one = Charge(noise_multiplier=2.0, sampling_rate=0.1, steps=5)
    for rounds in (3, 6, 9, 12):
        cost = epsilon([one] * rounds, delta=1e-5)
        assert re.search(rf"^{rounds} +{cost:.2f} ", said, re.MULTILINE)
    assert "a default policy" in said
    assert re.search(r"\d+ of 12$", said.strip(), re.MULTILINE)


def test_a_plan_of_a_study_names_each_hospital_and_what_its_policy_pays_for(tiny, tmp_path, study):
    (tmp_path / "policy.toml").write_text(
        tiny.policy(epsilon_per_study=1.0, noise_floor=5.0).to_toml()
    )
    arguments = ("plan", "--study", study, "--policy", tmp_path / "policy.toml")
    found = json.loads(run(*arguments, "--json"))
    assert list(found) == ["north", "south", "west"]
    one = found["north"]
    assert (one["noise_multiplier"], one["patients"], one["delta"]) == (5.0, 10, 1e-4)
    assert one["rounds_affordable"] == one["rounds_within_study"] < 30
    assert one["rounds_within_total"] == one["rounds_within_year"] == 30
    assert list(json.loads(run(*arguments, "--site", "south", "--json"))) == ["south"]
    said = run(*arguments)
    assert "5↑" in said
    assert f"{one['rounds_affordable']} of 30" in said
    assert "policy.toml" in said


def test_a_plan_warns_of_a_delta_that_is_not_small():
    numbers = ("--batch", 500, "--rounds", 40, "--noise-multiplier", 3)
    assert "take a δ below" not in run("plan", "--patients", 5_000, *numbers)
    said = run("plan", "--patients", 20_000, *numbers)
    assert "take a δ below" in said


def test_a_plan_is_drawn_where_it_is_asked_for(tmp_path):
    target = tmp_path / "plan.svg"
    arguments = ("--noise-multiplier", 4, "--rounds", 40, "--figure", target)
    assert str(target) in run("plan", *arguments).replace("\n", "")
    assert target.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "--site", "north"), "--study"),
        (("plan", "--patients", 5, "--batch", 6), "at most all"),
        (("plan", "--study", "absent.toml"), r"absent\.toml"),
        (("plan", "--policy", "absent.toml"), r"absent\.toml"),
        (("noise", "--epsilon", 0, *ROUNDS), "epsilon is 0"),
    ],
)
def test_a_command_line_that_contradicts_itself_is_one_sentence(arguments, words):
    assert re.search(words, run(*arguments, fails=ConfigError))


def test_the_record_of_a_study_is_printed_and_written_alike(tmp_path, study):
    out = tmp_path / "record.json"
    said = run("record", study, "--organisation", "St Elsewhere", "--out", out)
    assert out.read_text() == said
    record = Record.model_validate_json(said)
    assert record.deployment.organisation == "St Elsewhere"
    assert record.guarantee.delta == 1e-3


@pytest.mark.parametrize("verb", ["plan", "epsilon", "noise", "record"])
def test_every_verb_shows_an_example_and_names_units(verb):
    said = run(verb, "--help")
    assert f"septum privacy {verb}" in said
    options = set(re.findall(r"--(?!help|json)[a-z-]+ +([A-Z]+)", said))
    assert options <= {
        "PATH", "NAME", "URL", "MULTIPLE", "PROBABILITY", "STEPS", "ROUNDS", "PATIENTS", "EPSILON",
    }  # fmt: skip
    assert options
