"""``septum offline-bundle``: one zone with all that it needs, for a machine without a network."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from septum.errors import ConfigError


def add_offline_verbs(app: typer.Typer) -> None:
    """Add ``septum offline-bundle`` to the command line."""
    app.command("offline-bundle")(offline_bundle)


def offline_bundle(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    zone: Annotated[str, typer.Option(help="site or server: what the machine will be.")],
    wheels: Annotated[
        Path | None, typer.Option(help="Folder of wheels, Septum's own among them.")
    ] = None,
    key: Annotated[
        Path, typer.Option(help="Your key to sign bundles with; made at the first use.")
    ] = Path("bundle.key"),
    constraints: Annotated[
        Path, typer.Option(help="The versions that everything was tested with.")
    ] = Path("constraints.txt"),
) -> None:
    r"""Make a signed folder from which one zone installs without a network.

    Fetches nothing. The wheels come from one step before it, on a machine with a
    network and of the same kind as the one to install on, in a checkout:
    [bold]pip wheel -c constraints.txt -w wheels '.\[site,pacs]'[/], or
    [bold]'.\[server]'[/].

    [dim]Example:[/dim]  septum offline-bundle bundle --zone site --wheels wheels
    """
    from septum import offline  # noqa: PLC0415 - --help must be quick
    from septum.offline_wheels import ZONES  # noqa: PLC0415
    from septum.signing import SigningKey  # noqa: PLC0415

    if zone not in ZONES:
        raise ConfigError(
            f"{zone!r} is no zone.", remedy=f"Choose one of {', '.join(sorted(ZONES))}."
        )
    if wheels is None or not wheels.is_dir():
        extras = ",".join(ZONES[zone].extras)
        raise ConfigError(
            "there is no folder of wheels." if wheels is None else f"{wheels} is no folder.",
            remedy="In a checkout, with a network, run "
            f"`pip wheel -c constraints.txt -w wheels '.[{extras}]'`; then add --wheels wheels.",
        )
    pinned = offline.pins(constraints)
    if not key.exists():
        SigningKey.create().save(key)
    made = offline.make(
        out,
        zone=zone,
        wheels=wheels,
        pinned=pinned,
        key=SigningKey.load(key),
        now=datetime.now(UTC),
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    size = sum(wheel.size_bytes for wheel in made.wheels) / (1 << 20)
    console.print(f"{len(made.wheels)} packages, {size:.0f} MiB, in {out}.")
    if made.left_out:
        console.print(f"Not needed by this zone and left out: {len(made.left_out)} wheels.")
    console.print("Tell whoever installs, over another channel than the bundle's:")
    console.print(f"  fingerprint           {made.fingerprint}")
    console.print(f"  SHA-256 of install.sh {made.installer_sha256}")
    console.print("They run a copy of it: sh install.sh FINGERPRINT TARGET BUNDLE")
