"""TOML that anybody may have written, as JSON for a model to check; or one error."""

import json
import tomllib


class TomlError(ValueError):
    """The text is no TOML, or none that is read here; says why."""


def as_json(text: str) -> str:
    """Return the TOML ``text`` as JSON; a date becomes its ISO form.

    >>> as_json("rounds = 3")
    '{"rounds": 3}'

    Raises:
      TomlError: The text is not TOML, is nested deeper than Python's stack goes, or
        holds a number of more digits than Python turns into text.
    """
    try:
        return json.dumps(tomllib.loads(text), default=str)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(str(error)) from None
    except RecursionError:
        raise TomlError("it is nested too deeply") from None
    except ValueError:
        raise TomlError("it holds a number of too many digits") from None
