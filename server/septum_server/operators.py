"""Who may steer the server: named operators, each with a role and a token that is never stored.

What is stored is the token's SHA-256, which is enough because a token is 256
random bits, not a password that somebody chose.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import tomlkit
from pydantic import Field, ValidationError

from septum.durable import replace
from septum.errors import ConfigError, explain
from septum.toml_text import as_json
from septum.training import Part

Role = Literal["viewer", "operator", "admin"]

_VIEW: Final = frozenset({"list-runs", "list-nodes", "stream-logs"})
_STEER: Final = _VIEW | {"start-run", "stop-run"}
ROLES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "viewer": _VIEW,
        "operator": _STEER,
        "admin": _STEER | {"register-node", "unregister-node"},
    }
)
"""The calls of Flower's Control API that each role may make; every other call is for nobody."""


class Operator(Part):
    """One person, or the server's own processes under the name ``local``.

    Args:
      name: As the audit shows it.
      role: What they may do, by :data:`ROLES`.
      token_sha256: Of their token.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    role: Role
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Operators(Part):
    """All of them."""

    operators: tuple[Operator, ...] = ()

    def of(self, token: str) -> Operator | None:
        """Return whose token this is, or ``None``."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        # All are compared, so that the time taken does not say which one came close.
        for operator in self.operators:
            if secrets.compare_digest(operator.token_sha256, digest):
                found = operator
        return found

    def add(self, name: str, role: str) -> tuple["Operators", str]:
        """Return the operators with one more, and the new one's token, shown this once.

        Raises:
          ConfigError: The name is taken or not of its form, or there is no such role.
        """
        if any(operator.name == name for operator in self.operators):
            raise ConfigError(
                f"there is an operator {name!r} already.",
                remedy="Remove that one first: a token is replaced, never shown again.",
            )
        token = secrets.token_urlsafe(32)
        fields = {
            "name": name,
            "role": role,
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        }
        try:
            added = Operator.model_validate(fields)
        except ValidationError as error:
            raise ConfigError(
                f"operator: {explain(error)}.",
                remedy="Name them in lower case, with role viewer, operator or admin.",
            ) from None
        return Operators(operators=(*self.operators, added)), token

    def without(self, name: str) -> "Operators":
        """Return the operators without ``name``.

        Raises:
          ConfigError: There is no such operator.
        """
        rest = tuple(operator for operator in self.operators if operator.name != name)
        if len(rest) == len(self.operators):
            raise ConfigError(
                f"there is no operator {name!r}.", remedy="Run `septum server operators`."
            )
        return Operators(operators=rest)

    def save(self, path: Path) -> None:
        """Write them at mode 0600, whole or not at all."""
        text = tomlkit.dumps(self.model_dump(mode="json"))
        replace(path, lambda file: file.write(text.encode()))


def load(path: Path) -> Operators:
    """Read what :meth:`Operators.save` wrote.

    Raises:
      ConfigError: It cannot be read; nobody may steer then.
    """
    try:
        text = as_json(path.read_text(encoding="utf-8"))
        return Operators.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(
            f"{path.name}: {explain(error)}.", remedy="Correct it, or restore it from a backup."
        ) from None
    except (OSError, ValueError):
        raise ConfigError(
            f"{path.name} cannot be read.", remedy="Correct it, or restore it from a backup."
        ) from None


def audit(path: Path, *, at: datetime, who: str, did: Sequence[tuple[str, str]]) -> None:
    """Append one line to the audit, durably: when, who, and what in named values.

    Raises:
      OSError: It cannot be written; the call is then refused.
    """
    entry = {"at": at.isoformat(timespec="seconds"), "who": who} | dict(did)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with os.fdopen(os.open(path, flags, 0o600), "ab") as file:
        file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
