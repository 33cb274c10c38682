"""The hospital's three decisions as a person types them."""

import json
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from septum import cli
from septum.errors import (
    BudgetExceeded,
    ConfigError,
    EngineError,
    Refusal,
    SeptumError,
    SignatureError,
)
from septum.joining import read_card
from septum.signing import fingerprint
from septum_client import check_cli, preflight
from septum_client.site import Site

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


def run(*arguments, fails=None, **kwargs):
    """Return what ``septum site …`` prints, or the error that it ends with."""
    done = CliRunner().invoke(cli.build_app(), ["site", *map(str, arguments)], env=WIDE, **kwargs)
    if fails is not None:
        assert isinstance(done.exception, fails), f"{done.output}{done.exception!r}"
        assert done.exception.remedy
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


@pytest.fixture
def typed(invited, tmp_path, monkeypatch):
    """Return the invited site with the file that it got, where nothing listens anywhere."""
    invited.file = tmp_path / "invite-north.toml"
    invited.file.write_text(invited.invitation().to_toml())
    invited.folder = invited.site.folder
    invited.digest = invited.signed().study.digest
    return invited


def test_init_prints_the_fingerprint_of_the_card_that_it_writes(tmp_path):
    said = run("init", "north", "--site", tmp_path / "s", "--patients", 800)
    card = read_card(tmp_path / "s" / "site-card.toml")
    assert fingerprint(card.key) in said
    assert "site-card.toml" in said
    assert card.patients == 800


def test_the_card_is_written_again_with_the_same_keys(tmp_path):
    run("init", "north", "--site", tmp_path / "s", "--patients", 800)
    before = read_card(tmp_path / "s" / "site-card.toml")
    run("card", "--site", tmp_path / "s")
    assert read_card(tmp_path / "s" / "site-card.toml") == before
    assert fingerprint(before.key) in run("card", "--site", tmp_path / "s", "--patients", 90)
    assert read_card(tmp_path / "s" / "site-card.toml").patients == 90


def test_a_site_of_an_older_septum_gets_its_keys_by_card(tmp_path):
    run("init", "north", "--site", tmp_path / "s")
    kept = (tmp_path / "s" / "key").read_bytes()
    for name in ("signing.key", "node.key", "node.pub", "site-card.toml"):
        (tmp_path / "s" / name).unlink()
    run("card", "--site", tmp_path / "s")
    assert read_card(tmp_path / "s" / "site-card.toml").name == "north"
    assert (tmp_path / "s" / "key").read_bytes() == kept


def test_three_decisions_lead_from_an_invitation_to_an_approval(typed):
    said = run("join", typed.file, "--fingerprint", typed.spoken, "--site", typed.folder)
    assert "the fingerprint is right" in said
    assert "What leaves?" in said
    assert f"septum site approve {typed.digest}" in said
    assert "✗ reach" in " ".join(said.split())  # nothing listens here, and that stops no joining
    assert "offered" in run("review", "--site", typed.folder)
    said = run("review", typed.digest, "--site", typed.folder)
    assert typed.digest in said
    said = run("approve", typed.digest, "--by", "Dr. X", "--site", typed.folder)
    assert typed.digest in said
    assert Site.open(typed.folder).approved(typed.digest).name == "tiny"
    assert "approved" in run("review", "--site", typed.folder)


def test_a_fingerprint_that_is_not_given_is_asked_for(typed):
    said = run("join", typed.file, "--no-check", "--site", typed.folder, input=f"{typed.spoken}\n")
    assert "as heard over another way" in said
    # The same coordinator again: the site believes its key already.
    run("join", typed.file, "--no-check", "--site", typed.folder)


def test_a_wrong_fingerprint_shows_no_card(typed):
    said = run(
        *("join", typed.file, "--fingerprint", "AAAA-AAAA", "--site", typed.folder),
        fails=SignatureError,
    )
    assert "do not use it" in said
    assert not (typed.folder / "coordinator.toml").exists()


def test_who_approves_is_asked_for(typed):
    run("join", typed.file, "--no-check", "--fingerprint", typed.spoken, "--site", typed.folder)
    run("approve", typed.digest, "--site", typed.folder, input="J. Doe, privacy officer\n")
    text = (typed.folder / "approved" / f"{typed.digest}.approval").read_text()
    assert "J. Doe, privacy officer" in text


@pytest.mark.parametrize("digest", ["", "0" * 64, "tiny", "study.toml"])
def test_only_the_whole_digest_of_an_offered_study_can_be_approved(typed, digest):
    run("join", typed.file, "--no-check", "--fingerprint", typed.spoken, "--site", typed.folder)
    for said in (digest, typed.digest[:-1], typed.digest.upper()):
        run("approve", said, "--by", "X", "--site", typed.folder, fails=ConfigError)
    assert not list((typed.folder / "approved").iterdir())


def test_a_draft_can_be_reviewed_and_not_approved(typed, tmp_path, tiny):
    draft = tmp_path / "draft.toml"
    draft.write_text(tiny.study().to_toml())
    assert "nobody: this draft" in run("review", draft, "--site", typed.folder)
    run("approve", tiny.study().digest, "--by", "X", "--site", typed.folder, fails=ConfigError)
    draft.write_text(tiny.study().to_toml() + '\nhidden = "x"\n')
    assert "unknown key" in run("review", draft, "--site", typed.folder, fails=ConfigError)


def test_a_signed_file_with_an_added_key_is_refused(typed, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(typed.signed().to_toml() + '\nhidden = "x"\n')
    assert "unknown key" in run("review", file, "--site", typed.folder, fails=Refusal)


def test_the_html_card_holds_what_the_screen_shows(typed, tmp_path):
    page = tmp_path / "card.html"
    said = run(
        *("join", typed.file, "--no-check", "--fingerprint", typed.spoken),
        *("--site", typed.folder, "--html", page),
    )
    assert str(page) in said
    assert typed.digest in page.read_text()


def offer(typed, tiny, **changes):
    (typed.folder / "policy.toml").write_text(tiny.policy(**changes).to_toml())
    run("join", typed.file, "--no-check", "--fingerprint", typed.spoken, "--site", typed.folder)
    return ("approve", typed.digest, "--by", "X", "--site", typed.folder)


def test_a_study_of_which_no_round_can_be_paid_is_not_approved(typed, tiny):
    arguments = offer(typed, tiny, epsilon_per_study=1.0)
    assert "one round" in run(*arguments, fails=BudgetExceeded)
    assert not list((typed.folder / "approved").iterdir())


def test_approving_says_how_many_rounds_the_limits_pay_for(typed, tiny):
    assert "pay for 1 of its 3 rounds" in run(*offer(typed, tiny, epsilon_per_study=5.0))


def test_a_check_of_the_machine_exits_with_an_error_where_a_line_stops(typed):
    run("join", typed.file, "--no-check", "--fingerprint", typed.spoken, "--site", typed.folder)
    said = run("check", "--study", typed.digest, "--site", typed.folder, fails=EngineError)
    assert "cohort, reach" in said


def test_a_check_where_all_is_green_exits_with_0_and_prints_json(typed, monkeypatch):
    run("join", typed.file, "--no-check", "--fingerprint", typed.spoken, "--site", typed.folder)
    green = [preflight.ok("reach", "x")]
    monkeypatch.setattr(preflight, "preflight", lambda *_, **__: green)
    said = run("check", "--study", typed.digest, "--site", typed.folder, "--json")
    assert json.loads(said)["passed"] is True
    assert "✓" in run("check", "--study", typed.digest, "--site", typed.folder)


def test_a_check_of_nothing_says_what_it_needs(typed):
    for arguments in ((), ("--label", "sick"), ("--label", "sick", "--study", "x")):
        run("check", *arguments, "--site", typed.folder, fails=ConfigError)


def test_every_remedy_is_printed_below_its_line(capsys):
    check_cli.show([preflight.stop("disk", "full", "Free it."), preflight.ok("reach", "x")])
    printed = " ".join(capsys.readouterr().out.split())
    assert printed == "✗ disk full → Free it. ✓ reach x"


def test_errors_of_joining_end_with_their_own_exit_code(typed, monkeypatch, capsys):
    arguments = ["septum", "site", "join", str(typed.file), "--fingerprint", "x"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--site", str(typed.folder)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == SignatureError.exit_code != SeptumError.exit_code
    assert capsys.readouterr().err.startswith("error: ")


def test_the_other_sides_words_in_an_error_do_not_act_on_the_screen(
    typed, tmp_path, monkeypatch, capsys
):
    ethics = [{"number": "MARK", "body": "Board", "expires": "2030-01-01"}]
    text = typed.signed(approvals=ethics).to_toml().replace("MARK", "\\u001b[2J")
    signed = SimpleNamespace(to_toml=lambda: text)
    typed.file.write_text(typed.invitation(signed).to_toml())
    arguments = ["septum", "site", "join", str(typed.file), "--fingerprint", typed.spoken]
    monkeypatch.setattr(sys, "argv", [*arguments, "--site", str(typed.folder)])
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code
    printed = capsys.readouterr().err
    assert "approvals.0.number" in printed
    assert "\x1b" not in printed
