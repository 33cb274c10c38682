"""Every command, option and file that the pages about deployment name exists."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

import septum_client.cli
import septum_server.cli
from septum.cli import build_app

PAGES = ("deploy/README.md", *(f"docs/{n}.md" for n in ("deploy", "network", "upgrade", "backup")))
BY_COMPOSE = ("run --rm desk ",)


@pytest.fixture(scope="module")
def command() -> click.Group:
    """The whole command line, whichever zones' entry points are installed here."""
    app = build_app()
    there = {group.name for group in app.registered_groups}
    for zone, verb in ((septum_client, "site"), (septum_server, "server")):
        if verb not in there:
            zone.cli.add_verbs(app)
    made = typer.main.get_command(app)
    assert isinstance(made, click.Group)
    return made


def _commands(text: str) -> list[list[str]]:
    """Return the words of each command of Septum's on a page, in a block or in a line."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [
        line.split("#")[0] for block in blocks for line in block.replace("\\\n", " ").split("\n")
    ]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = []
    for line in lines:
        told = re.sub("|".join(BY_COMPOSE), "\0septum ", line)
        said = re.search(r"(?:^|\0)septum (?!\w*:)(.*)", told.strip())
        if said:
            found.append(shlex.split(re.split(r" \| | > ", said[1])[0]))
    return found


def _fault(command: click.Command, words: list[str]) -> str:
    context = click.Context(command)
    for position, word in enumerate(words):
        if not isinstance(command, click.Group):
            options = {
                name for each in command.params for name in (*each.opts, *each.secondary_opts)
            }
            asked = {w.split("=")[0] for w in words[position:] if w.startswith("--")}
            return f"no option {asked - options}" if asked - options else ""
        if word.startswith("--"):
            return ""
        below = command.get_command(context, word)
        if below is None:
            return f"no command {word}"
        command = below
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists_with_its_options(
    page: str, root: Path, command: click.Group
) -> None:
    commands = _commands((root / page).read_text(encoding="utf-8"))
    faults = {
        " ".join(words): fault for words in commands if (fault := _fault(command, list(words)))
    }
    assert not faults
    if page in {"docs/deploy.md", "docs/backup.md", "docs/upgrade.md"}:
        assert len(commands) >= 5


def test_a_command_or_an_option_that_does_not_exist_is_noticed(command: click.Group) -> None:
    assert _fault(command, ["site", "fly"])
    assert _fault(command, ["site", "up", "--altitude", "3"])
    assert not _fault(command, ["site", "up", "--site", "x"])
    text = "```sh\ndocker compose run --rm desk site init x\n```\nand `septum study status`."
    assert _commands(text) == [["site", "init", "x"], ["study", "status"]]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_tree_that_a_page_names_exists(page: str, root: Path) -> None:
    text = (root / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])((?:deploy|tests|docs)/[\w./-]+\w)", text))
    assert not [name for name in named if not (root / name).exists()]


def test_the_ports_of_the_network_page_are_those_of_a_new_coordinator(root: Path) -> None:
    from septum_server.coordinator import Settings  # noqa: PLC0415 - imports torch

    text = (root / "docs/network.md").read_text(encoding="utf-8")
    settings = Settings(address="fl.example.org:8443")
    for port in (settings.port, settings.control_port, settings.inner_port):
        assert f"{port}/tcp" in text
    assert set(re.findall(r"\b(84\d\d)/tcp", text)) == {"8443", "8444", "8445"}
    units = (root / "deploy/systemd/septum-coordinator.service").read_text(encoding="utf-8")
    assert set(re.findall(r"SocketBindAllow=tcp:(\d+)", units)) == {"8443", "8444", "8445"}
