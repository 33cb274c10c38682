"""Answers to ``septum study new``, each held against the study's own field as it is given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def study_field(key: str) -> Callable[[Any], Any]:
    """Return a check of an answer against a field of the study; asked at a prompt, it asks again.

    Whoever has answered six questions must not lose them to the first one's spelling. What
    holds between two answers is seen at the end alone.

    Args:
      key: The field, ``data.`` before it where it is the data's.

    Raises:
      typer.BadParameter: From the check, with the field's rule.
    """

    def check(answer: Any) -> Any:
        from pydantic import ValidationError, create_model  # noqa: PLC0415 - --help must be quick

        from septum.data import Data  # noqa: PLC0415
        from septum.errors import explain  # noqa: PLC0415
        from septum.study import Study  # noqa: PLC0415

        part, _, name = key.rpartition(".")
        field = (Data if part else Study).model_fields[name]
        only: Any = {name: (field.annotation, field)}
        value = tuple(words(answer)) if name == "labels" else answer
        try:
            create_model("Answer", **only).model_validate({name: value})
        except ValidationError as error:
            raise typer.BadParameter(explain(error)) from None
        return answer

    return check


def words(answer: str) -> list[str]:
    """Return what stands between the commas."""
    return [word.strip() for word in answer.split(",") if word.strip()]


def above_zero(answer: float) -> float:
    """Refuse what no privacy budget is.

    Raises:
      typer.BadParameter: It is not a finite number above 0.
    """
    if not 0 < answer < float("inf"):
        raise typer.BadParameter(f"{answer} is no finite number above 0.")
    return answer


def not_there(path: Path) -> Path:
    """Refuse a file that exists, before anything is asked.

    Raises:
      ConfigError: It exists.
    """
    from septum.errors import ConfigError  # noqa: PLC0415

    if path.exists():
        raise ConfigError(f"{path} exists already.", remedy="Edit it, or choose another file.")
    return path


def cards(paths: list[Path]) -> list[Path]:
    """Refuse a card that cannot be believed, before anything is asked.

    Raises:
      ConfigError: It is not there, is no card, or was changed.
    """
    from septum.joining import read_card  # noqa: PLC0415

    for path in paths:
        read_card(path)
    return paths
