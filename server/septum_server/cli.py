"""The coordinator's verbs: ``septum server …`` and ``septum study …``."""

import typer

from septum_server.server_cli import add_server_verbs
from septum_server.study_cli import add_study_verbs


def add_verbs(app: typer.Typer) -> None:
    """Add the coordinator's verbs to the command line."""
    add_server_verbs(app)
    add_study_verbs(app)
