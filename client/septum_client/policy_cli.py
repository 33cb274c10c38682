"""``septum site policy``: the limits in force, and why each default is what it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from septum_client.data_cli import Folder

if TYPE_CHECKING:
    from septum_client.policy import Policy


def policy(
    folder: Folder = Path("site"),
    write: Annotated[
        Path | None,
        typer.Option(help="Write the defaults, with their reasons, to this new file, and stop."),
    ] = None,
) -> None:
    """Check the site's policy.toml and show each limit with the reason of its default.

    [dim]Examples:[/dim]  septum site policy --site /srv/septum

      septum site policy --write policy.toml
    """
    from septum.errors import ConfigError  # noqa: PLC0415
    from septum_client.policy import Policy  # noqa: PLC0415 - imports torch; --help must not
    from septum_client.site import Site, write_durably  # noqa: PLC0415

    if write is None:
        _show(Site.open(folder).policy)
        return
    if write.exists():
        raise ConfigError(
            f"{write.name} is there already.",
            remedy="Edit it, or name a file that does not exist; nothing was changed.",
        )
    write_durably(write, Policy().to_toml().encode())
    typer.echo(f"Wrote {write}. Read it; every key says why it is what it is.")


def _show(found: "Policy") -> None:
    from septum_client.policy import Policy  # noqa: PLC0415
    from septum_client.policy_reasons import REASONS  # noqa: PLC0415

    console = Console(highlight=False)
    default = _flat(Policy().model_dump(mode="json"))
    for key, value in _flat(found.model_dump(mode="json")).items():
        line = Text.assemble((key, "bold"), f" = {_said(value)}")
        if value != default[key]:
            line.append(f"   (default: {_said(default[key])})", "yellow")
        console.print(line)
        console.print(Padding(Text(REASONS[key], "dim"), (0, 0, 0, 4)))
    typer.echo("The policy is valid. The stricter of it and the study holds at every round.")


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    intake = fields.pop("intake")
    return fields | {f"intake.{key}": value for key, value in intake.items()}


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
