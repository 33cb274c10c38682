"""The coordinator's commands, typed as a person would, without a server."""

import json
import os
import pty
import select
import subprocess
import sys
import tomllib

import pytest
import typer

from septum import cli
from septum.joining import read_invitation
from septum.signing import fingerprint
from septum.study import load
from septum_client.policy import Policy
from septum_client.site import Site
from septum_server.cli import add_verbs
from septum_server.coordinator import Coordinator


@pytest.fixture
def septum(monkeypatch, capsys, tmp_path):
    app = typer.Typer()
    add_verbs(app)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEPTUM_TOKEN", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["septum", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


@pytest.fixture
def hospitals(tmp_path):
    return [
        Site.create(tmp_path / name, name=name, policy=Policy()).folder / "site-card.toml"
        for name in ("north", "south")
    ]


def new(septum, hospitals, *arguments):
    sites = [word for card in hospitals for word in ("--site", card)]
    return septum(
        "study", "new", "study.toml", *sites, "--name", "tiny", "--purpose", "A test.",
        "--labels", "sick, well", "--task", "multilabel", "--image-size", 32, "--epsilon", 4,
        *arguments,
    )  # fmt: skip


DECLARED = ("--patients", "north=20", "--patients", "south=30")


def one_sentence(result, *words):
    code, _, err = result
    assert code not in {0, None}
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err.replace("\n", " "), err


def test_from_nothing_to_two_invitations(septum, hospitals, tmp_path):
    code, out, err = septum("server", "init", "fl.example.org:8443")
    assert code == 0, err
    key = Coordinator.open(tmp_path / "coordinator").public
    assert fingerprint(key) in out
    code, out, err = septum("server", "show")
    assert code == 0, err
    said = dict(line.rsplit(": ", 1) for line in out.splitlines())
    assert list(said.values()) == [fingerprint(key), "fl.example.org:8443", "89"]
    code, out, err = new(septum, hospitals, *DECLARED, "--approval", "17/2026@Ethics committee")
    assert code == 0, err
    study = load(tmp_path / "study.toml")
    assert [(site.name, site.patients) for site in study.sites] == [("north", 20), ("south", 30)]
    assert study.data.labels == ("sick", "well")
    assert study.approvals[0].number == "17/2026"
    code, out, err = septum("study", "sign", "study.toml")
    assert code == 0, err
    digest = out.split("Digest: ")[1].split()[0]
    code, out, err = septum("study", "list")
    assert digest in out
    for name in ("north", "south"):
        code, out, err = septum("study", "invite", name)
        assert code == 0, err
        assert fingerprint(key) in out
        read = read_invitation(tmp_path / f"invite-{name}.toml")
        assert (read.site, read.coordinator, read.address) == (name, key, "fl.example.org:8443")
        assert digest in read.study or f'coordinator = "{key}"' in read.study
    code, out, err = septum("study", "status", digest[:12], "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["state"], found["rounds"], found["sites"]) == ("not started", 0, {})
    code, out, err = septum("study", "status", digest[:12])
    assert "the server does not answer" in out
    one_sentence(septum("study", "start", digest[:12]), "does not answer", "septum server up")
    one_sentence(septum("study", "start", "0" * 12), "0 signed studies")


def test_a_study_is_never_written_over(septum, hospitals, tmp_path):
    (tmp_path / "study.toml").write_text("mine")
    one_sentence(new(septum, hospitals, *DECLARED), "exists already")
    assert (tmp_path / "study.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "declares no patients"),
        ((*DECLARED, "--approval", "17"), "NUMBER@BODY"),
        ((*DECLARED, "--quorum", 3), "minimum_sites is 3"),
        ((*DECLARED, "--expires", "soon"), "expires"),
        ((*DECLARED, "--model", "mine"), "mine"),
    ],
)
def test_what_cannot_be_a_study_is_named_and_nothing_is_written(
    septum, hospitals, tmp_path, arguments, word
):
    one_sentence(new(septum, hospitals, *arguments), word)
    assert not (tmp_path / "study.toml").exists()


def typed(folder, command, answers):
    """Type ``answers``, each after the prompt it belongs to, at a terminal; return the screen."""
    ours, theirs = pty.openpty()
    run = "import sys; from septum.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", run, *map(str, command)],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
    ) as child:  # fmt: skip
        os.close(theirs)
        screen, told = "", 0
        for prompt, answer in [*answers, (None, "")]:
            while prompt is None or prompt not in screen[told:]:
                assert select.select([ours], [], [], 120)[0], screen
                try:
                    more = os.read(ours, 4096).decode()
                except OSError:  # the other end is closed: it has ended
                    more = ""
                if not more:
                    break
                screen += more
            assert prompt is None or prompt in screen[told:], (prompt, screen)
            told = len(screen)
            os.write(ours, f"{answer}\n".encode() if prompt else b"")
        child.wait(60)
    os.close(ours)
    return child.returncode, screen


def test_a_wrong_answer_at_the_terminal_is_asked_again_and_costs_no_other(
    septum, hospitals, tmp_path
):
    sites = [word for card in hospitals for word in ("--site", card)]
    code, screen = typed(
        tmp_path,
        ["study", "new", "typed.toml", *sites, *DECLARED],
        [
            ("Name", "Tiny Study"),
            ("Name", "tiny"),
            ("research question", "A test."),
            ("Labels", "sick, not well"),
            ("Labels", "sick, well"),
            ("Task", "both"),
            ("Task", ""),
            ("Image size", "8"),
            ("Image size", "32"),
            ("Epsilon", "0"),
            ("Epsilon", "4"),
        ],
    )
    assert code == 0, screen
    assert screen.count("Error: ") == 5
    assert "Input should be 'multilabel', 'classification'" in screen
    code, _, err = new(septum, hospitals, *DECLARED)
    assert code == 0, err
    assert (tmp_path / "typed.toml").read_text() == (tmp_path / "study.toml").read_text()


def test_nothing_is_asked_where_the_answers_could_not_be_written(hospitals, tmp_path):
    there = tmp_path / "study.toml"
    there.write_text("mine")
    hospitals[1].write_text("no card")
    for command, said in (
        (["study", "new", there, "--site", hospitals[0]], "exists already"),
        (["study", "new", "other.toml", "--site", hospitals[1]], "site-card.toml"),
    ):
        code, screen = typed(tmp_path, command, [])
        assert code not in {0, None}
        assert said in screen
        assert "Name" not in screen


def test_an_altered_card_is_refused(septum, hospitals):
    text = hospitals[0].read_text()
    hospitals[0].write_text(text.replace("patients = 0", "patients = 900"))
    one_sentence(new(septum, hospitals, *DECLARED), "changed after it was made")


def test_operators_come_and_go_and_their_tokens_are_shown_once(septum, tmp_path):
    septum("server", "init", "h.org:8443")
    code, out, err = septum("server", "operator", "alice", "--role", "viewer")
    assert code == 0, err
    token = out.split("this once: ")[1].split()[0]
    assert "alice" in septum("server", "operators")[1]
    stored = (tmp_path / "coordinator/operators.toml").read_text()
    assert token not in stored
    assert len(tomllib.loads(stored)["operators"]) == 2
    one_sentence(septum("server", "operator", "alice"), "already")
    assert septum("server", "operator", "alice", "--remove")[0] == 0
    assert "alice" not in septum("server", "operators")[1]
    audited = (tmp_path / "coordinator/audit.log").read_text()
    assert [json.loads(line)["call"] for line in audited.splitlines()] == [
        "add-operator", "add-operator", "remove-operator",
    ]  # fmt: skip


def test_a_certificate_is_renewed_by_hand(septum, tmp_path):
    septum("server", "init", "h.org:8443")
    before = (tmp_path / "coordinator/tls/server.crt").read_bytes()
    code, out, _ = septum("server", "renew")
    assert code == 0
    assert "89 days left" in out or "90 days left" in out
    assert (tmp_path / "coordinator/tls/server.crt").read_bytes() != before


@pytest.mark.parametrize(
    "arguments",
    [("server", "up"), ("server", "renew"), ("study", "list"), ("study", "start", "0" * 8)],
)
def test_without_a_coordinator_every_command_says_how_to_make_one(septum, arguments):
    one_sentence(septum(*arguments), "holds no coordinator", "septum server init")


@pytest.mark.parametrize("address", ["h.org", "https://h.org:1", "h.org:99999", "h.org:0"])
def test_an_address_that_hospitals_could_not_use_is_refused(septum, tmp_path, address):
    one_sentence(septum("server", "init", address))
    assert not (tmp_path / "coordinator").exists()
