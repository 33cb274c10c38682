from typer.testing import CliRunner

from septum import cli
from septum.errors import ConfigError, Refusal
from septum_client.policy import Policy, load
from septum_client.policy_reasons import REASONS
from septum_client.site import Site

WIDE = {"COLUMNS": "400", "NO_COLOR": "1"}


def run(*arguments, fails=None):
    done = CliRunner().invoke(cli.build_app(), ["site", *map(str, arguments)], env=WIDE)
    if fails is not None:
        assert isinstance(done.exception, fails), done.output
        assert done.exception.remedy
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


def test_every_limit_is_shown_with_its_value_and_the_reason_of_its_default(tmp_path):
    site = Site.create(tmp_path / "s", name="north", policy=Policy(epsilon_total=7.5))
    said = run("policy", "--site", site.folder)
    assert "epsilon_per_study = 3\n" in said
    assert "epsilon_total = 7.5   (default: 4)" in said
    assert said.count("(default:") == 1
    assert all(reason in said for key, reason in REASONS.items() if key != "intake")
    assert "The policy is valid." in said


def test_a_policy_that_is_not_valid_is_not_shown_as_one(tmp_path):
    site = Site.create(tmp_path / "s", name="north", policy=Policy())
    (site.folder / "policy.toml").write_text("noise_floor = 0\n")
    assert "noise_floor" in run("policy", "--site", site.folder, fails=ConfigError)
    (site.folder / "policy.toml").unlink()
    assert "policy --write" in run("policy", "--site", site.folder, fails=Refusal)


def test_the_defaults_are_written_with_their_reasons_and_never_over_a_file(tmp_path):
    path = tmp_path / "policy.toml"
    run("policy", "--write", path)
    assert load(path) == Policy()
    assert "# Most epsilon of one study" in path.read_text()
    path.write_text("epsilon_total = 1.0\n")
    assert "is there already" in run("policy", "--write", path, fails=ConfigError)
    assert path.read_text() == "epsilon_total = 1.0\n"


def test_a_new_site_begins_with_the_reasons_in_its_policy(tmp_path):
    run("init", "north", "--site", tmp_path / "s")
    assert (tmp_path / "s" / "policy.toml").read_text() == Policy().to_toml()
