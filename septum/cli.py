"""The ``septum`` command. Each installed zone adds its own verbs."""

import errno
import json
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated, cast

import click
import typer
from rich.console import Console
from rich.text import Text

from septum import __version__
from septum.egress_cli import add_egress_verbs
from septum.errors import Interrupted, SeptumError
from septum.model_cli import add_model_verbs
from septum.offline_cli import add_offline_verbs
from septum.plain_text import visible
from septum.privacy_cli import add_privacy_verbs

_SYSTEM = 8


def build_app() -> typer.Typer:
    """Return the command line with the verbs of every installed zone."""
    app = typer.Typer(
        name="septum",
        help="Federated learning for medical imaging. The hospital decides what leaves; "
        "leakage is measured, not promised.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version and stop.", is_eager=True, callback=_version
            ),
        ] = False,
    ) -> None:
        del version

    add_model_verbs(app)
    add_privacy_verbs(app)
    add_egress_verbs(app)
    add_offline_verbs(app)
    # The hospital's verbs come first: the bench adds one to them.
    points = entry_points(group="septum.verbs")
    for point in sorted(points, key=lambda p: (p.name != "site", p.name)):
        try:
            add_verbs = cast(Callable[[typer.Typer], None], point.load())
        except ModuleNotFoundError as error:
            # A hospital's image carries its own zone alone; anything else missing is a fault.
            if error.name != point.module.split(".")[0]:
                raise
            continue
        add_verbs(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"septum {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; exit 0 only if everything that was asked was done."""
    as_json = "--json" in sys.argv
    try:
        code = build_app()(standalone_mode=False)
    except SeptumError as error:
        # A sentence may quote the other side's words; none of them may act on this screen.
        _complain(visible(error.message), visible(error.remedy), as_json=as_json)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        _complain(
            f"the package {error.name!r} is not installed.",
            "Install the extra of your zone: pip install 'septum[site]', [server] or [bench].",
            as_json=as_json,
        )
        sys.exit(_SYSTEM)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        remedy = "Free disk space and run again." if full else "Check the path and its permissions."
        # The path is left out: below a hospital's folder it may carry a name.
        _complain(f"the system refused: {error.strerror or error}.", remedy, as_json=as_json)
        sys.exit(_SYSTEM)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _complain("interrupted.", "", as_json=as_json)
        sys.exit(Interrupted.exit_code)
    except click.ClickException as error:
        _complain(error.format_message(), "See --help.", as_json=as_json)
        sys.exit(error.exit_code)
    if code == Interrupted.exit_code:  # typer turns an interrupt into a silent exit
        _complain("interrupted.", "", as_json=as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, remedy: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"event": "error", "message": message, "remedy": remedy}))
    text = Text.assemble(("error: ", "bold red"), message, " ", (remedy, "bold"))
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)
