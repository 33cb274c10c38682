"""``septum study …``: a study from its first question to its last round."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from septum_server.questions import above_zero, cards, not_there, study_field, words
from septum_server.server_cli import Folder, opened

if TYPE_CHECKING:
    from septum_server.control import Control
    from septum_server.coordinator import Coordinator

Digest = Annotated[str, typer.Argument(help="The study's digest, or its first 8 digits or more.")]
_POLL_S = 2.0


def add_study_verbs(app: typer.Typer) -> None:
    """Add ``septum study`` to the command line."""
    study = typer.Typer(help="Studies: write, sign, invite hospitals, start, watch, resume.")
    for verb in (new, sign, invite, start, status, resume, stop):
        study.command()(verb)
    study.command("list")(list_studies)
    app.add_typer(study, name="study", rich_help_panel="Coordinator")


def new(
    out: Annotated[Path, typer.Argument(help="TOML file to write.", callback=not_there)],
    sites: Annotated[
        list[Path],
        typer.Option("--site", help="A hospital's site-card.toml; once for each.", callback=cards),
    ],
    name: Annotated[
        str, typer.Option(prompt="Name (lower case, hyphens)", callback=study_field("name"))
    ],
    purpose: Annotated[
        str, typer.Option(prompt="The research question", callback=study_field("purpose"))
    ],
    labels: Annotated[
        str, typer.Option(prompt="Labels to learn, by commas", callback=study_field("data.labels"))
    ],
    task: Annotated[
        str,
        typer.Option(
            prompt="Task (multilabel, classification, segmentation)",
            callback=study_field("data.task"),
        ),
    ] = "multilabel",
    image_size: Annotated[
        int,
        typer.Option(prompt="Image size, pixels a side", callback=study_field("data.image_size")),
    ] = 64,
    epsilon: Annotated[
        float, typer.Option(prompt="Epsilon per patient, over all rounds", callback=above_zero)
    ] = 3.0,
    approval: Annotated[
        list[str] | None,
        typer.Option(help="NUMBER@BODY of an ethics approval; once for each."),
    ] = None,
    expires: Annotated[str, typer.Option(help="Last day of training, YYYY-MM-DD.")] = "",
    rounds: Annotated[int | None, typer.Option(help="Rounds; the recipe's if left out.")] = None,
    quorum: Annotated[int | None, typer.Option(help="Fewest sites of a round.")] = None,
    deadline_s: Annotated[int, typer.Option(help="Seconds to answer a round.")] = 3600,
    delta: Annotated[float, typer.Option(help="At which delta epsilon is meant.")] = 1e-5,
    model: Annotated[str, typer.Option(help="Network; the recipe's if left out.")] = "",
    patients: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER where a card declares none.")
    ] = None,
) -> None:
    """Ask what the study is, and write it as TOML with a comment on each key.

    [dim]Example:[/dim]  septum study new study.toml --site north.toml --site south.toml
    """
    from septum.joining import read_card  # noqa: PLC0415 - --help must be quick
    from septum_server.draft import Wishes, commented, declared, fields_of  # noqa: PLC0415

    wishes = Wishes(
        name=name,
        purpose=purpose,
        task=task,
        labels=tuple(words(labels)),
        image_size=image_size,
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        expires=expires,
        approvals=tuple(_pair(text, "@", "--approval NUMBER@BODY") for text in approval or ()),
        quorum=quorum,
        deadline_s=deadline_s,
        model=model,
    )
    said = dict(_pair(text, "=", "--patients NAME=NUMBER") for text in patients or ())
    fields = fields_of(wishes, declared([read_card(path) for path in sites], said))
    out.write_text(commented(fields), encoding="utf-8")
    typer.echo(f"Wrote {out}. Read and edit it, then: septum study sign {out}")


def sign(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    folder: Folder = Path("coordinator"),
    weights: Annotated[
        Path | None, typer.Option(help="The public weights that model.weights names.")
    ] = None,
) -> None:
    """Sign a study with the coordinator's key; from now on it has a digest and no changes.

    [dim]Example:[/dim]  septum study sign study.toml
    """
    from septum.study import load  # noqa: PLC0415
    from septum_server.studies import sign_study  # noqa: PLC0415

    coordinator = opened(folder)
    signed = sign_study(coordinator, load(study), weights=weights, today=datetime.now(UTC).date())
    digest = signed.study.digest
    typer.echo(f"Signed {signed.study.name}. Digest: {digest}")
    for site in signed.study.sites:
        typer.echo(f"Next: septum study invite {site.name} --study {digest[:12]}")


def invite(
    site: Annotated[str, typer.Argument(help="The hospital's public name.")],
    study: Annotated[
        str, typer.Option(help="Digest, or its first digits; not needed if there is one study.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="File; invite-SITE.toml if left out.")] = None,
    folder: Folder = Path("coordinator"),
) -> None:
    """Write the invitation of one hospital: the address, what to believe, the signed study.

    [dim]Example:[/dim]  septum study invite st-elsewhere
    """
    from septum.signing import fingerprint  # noqa: PLC0415
    from septum_server.studies import invitation_of, only_study  # noqa: PLC0415

    coordinator = opened(folder)
    digest = coordinator.digest(study) if study else only_study(coordinator)
    path = out or Path(f"invite-{site}.toml")
    path.write_text(invitation_of(coordinator, digest, site).to_toml(), encoding="utf-8")
    typer.echo(f"Wrote {path}: nothing in it is secret. Send it to {site}.")
    typer.echo(f"Read out over the telephone: {fingerprint(coordinator.public)}")


def start(digest: Digest, folder: Folder = Path("coordinator")) -> None:
    """Start a signed study on the server that is up.

    [dim]Example:[/dim]  septum study start 3f9c21aa
    """
    from septum_server.studies import begin  # noqa: PLC0415

    coordinator = opened(folder)
    full = coordinator.digest(digest)
    with _control(coordinator) as control:
        run = begin(coordinator, control, full, resume=False, today=datetime.now(UTC).date())
    typer.echo(f"Started as run {run}. Watch it: septum study status {full[:12]} --watch")


def resume(digest: Digest, folder: Folder = Path("coordinator")) -> None:
    """Go on with a study from its last checkpoint; no round is charged or trained twice.

    [dim]Example:[/dim]  septum study resume 3f9c21aa
    """
    from septum_server.studies import begin  # noqa: PLC0415

    coordinator = opened(folder)
    full = coordinator.digest(digest)
    with _control(coordinator) as control:
        run = begin(coordinator, control, full, resume=True, today=datetime.now(UTC).date())
    typer.echo(f"Resumed as run {run}. Watch it: septum study status {full[:12]} --watch")


def stop(digest: Digest, folder: Folder = Path("coordinator")) -> None:
    """Stop a study's run; what was finished is kept, and the study can be resumed.

    [dim]Example:[/dim]  septum study stop 3f9c21aa
    """
    from septum_server.studies import halt  # noqa: PLC0415

    coordinator = opened(folder)
    full = coordinator.digest(digest)
    with _control(coordinator) as control:
        stopped = halt(control, full)
    typer.echo(f"Stopped {stopped} runs.")


def status(
    digest: Digest,
    folder: Folder = Path("coordinator"),
    watch: Annotated[bool, typer.Option("--watch", help="Show again until it ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show each round: who was asked, who answered, who did not and why.

    [dim]Example:[/dim]  septum study status 3f9c21aa --watch
    """
    from rich.live import Live  # noqa: PLC0415

    from septum_server.status_view import shown  # noqa: PLC0415
    from septum_server.studies import look  # noqa: PLC0415

    coordinator = opened(folder)
    full = coordinator.digest(digest)
    token = os.environ.get("SEPTUM_TOKEN")
    console = Console(highlight=False, markup=False)
    found = look(coordinator, full, token=token)
    if as_json:
        typer.echo(json.dumps(found.as_json(), sort_keys=True))
        while watch and not found.ended:
            time.sleep(_POLL_S)
            found = look(coordinator, full, token=token)
            typer.echo(json.dumps(found.as_json(), sort_keys=True))
        return
    if not watch:
        console.print(shown(found))
        return
    with Live(shown(found), console=console, auto_refresh=False) as live:
        while not found.ended:
            time.sleep(_POLL_S)
            found = look(coordinator, full, token=token)
            live.update(shown(found), refresh=True)


def list_studies(folder: Folder = Path("coordinator")) -> None:
    """Show the signed studies.

    [dim]Example:[/dim]  septum study list
    """
    coordinator = opened(folder)
    for digest in coordinator.digests():
        study = coordinator.study(digest).study
        typer.echo(f"{digest}  {study.name}  {len(study.sites)} sites, {study.rounds} rounds")


def _control(coordinator: "Coordinator") -> "Control":
    from septum_server.launch import desk  # noqa: PLC0415

    return desk(coordinator, token=os.environ.get("SEPTUM_TOKEN"))


def _pair(text: str, sign: str, form: str) -> tuple[str, str]:
    from septum.errors import ConfigError  # noqa: PLC0415

    left, found, right = text.partition(sign)
    if not (left.strip() and found and right.strip()):
        raise ConfigError(f"{text!r} is not of the form {form}.", remedy="Write it like that.")
    return left.strip(), right.strip()
