"""A hospital's yes to one study: its own signature over the digest, the day and who said it.

The file beside an approved study holds it. Without one that verifies against
the site's own key, nothing trains: a study that was put into the folder by a
script, a restored backup or another person's hand is not approved by lying there.
"""

import json
import tomllib
from datetime import datetime
from typing import Literal

import tomlkit
from pydantic import Field, ValidationError

from septum.errors import Code, ConfigError, Refusal, SignatureError, explain
from septum.signing import Purpose, SigningKey, verify
from septum.study import Name, Study
from septum.training import Part

MOST_BYTES = 1 << 16
"""Largest file that is read as an approval."""


class SiteApproval(Part):
    """What was said yes to; kept on site, shown to auditors.

    Args:
      study: Digest of the study.
      site: The hospital's public name.
      coordinator: The key that the study names; empty for a study that nobody
        signs, which only the bench and tests approve.
      by: Who said yes, as the person wrote it.
      at: When, with its zone, ISO 8601.
      signature: Of the site's signing key over the rest.
    """

    format: Literal[1] = 1
    study: str = Field(pattern=r"^[0-9a-f]{64}$")
    site: Name
    coordinator: str = Field(pattern=r"^([0-9a-f]{64})?$")
    by: str = Field(min_length=1, max_length=200)
    at: str = Field(min_length=1, max_length=40)
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")

    def to_toml(self) -> str:
        """Return the approval as TOML that :func:`check` reads back."""
        return tomlkit.dumps(self.model_dump(mode="json"))


def give(key: SigningKey, study: Study, *, site: str, by: str, at: datetime) -> SiteApproval:
    """Return the site's approval of ``study``.

    Args:
      key: The site's signing key.
      study: What is approved.
      site: The site's public name.
      by: Who says yes; a person's name or role. It stays on site.
      at: The time, with its zone.

    Raises:
      ConfigError: ``by`` is empty or above 200 characters.
    """
    fields: dict[str, str | int | float | bool] = {
        "format": 1, "study": study.digest, "site": site, "coordinator": study.coordinator,
        "by": by, "at": at.isoformat(timespec="seconds"),
    }  # fmt: skip
    try:
        return SiteApproval.model_validate(
            {**fields, "signature": key.sign(Purpose.APPROVAL, fields)}
        )
    except ValidationError as error:
        raise ConfigError(
            f"the approval cannot be written: {explain(error)}.",
            remedy="Say who approves in 1 to 200 characters: --by 'Dr. Doe, privacy officer'.",
        ) from None


def check(text: str, study: Study, *, site: str, public: str) -> SiteApproval:
    """Return the approval that ``text`` holds, if it is this site's of this very study.

    Args:
      text: Content of the approval's file.
      study: The study as it lies on disk.
      site: The site's public name.
      public: The site's public signing key.

    Raises:
      Refusal: With :attr:`Code.UNKNOWN_STUDY`: it is no such approval.
    """
    try:
        given = SiteApproval.model_validate_json(json.dumps(tomllib.loads(text)), strict=True)
        said = given.model_dump(exclude={"signature"})
        verify(public, Purpose.APPROVAL, said, given.signature)
        held = (given.study, given.site, given.coordinator)
        if held == (study.digest, site, study.coordinator):
            return given
    except (ValueError, TypeError, RecursionError, SignatureError):
        pass  # which of them it was would help nobody but a forger
    raise Refusal(
        Code.UNKNOWN_STUDY,
        "the approval beside the study is not this site's signature over it.",
        remedy="Find out who wrote it, then review the study and run `septum site approve`.",
    )
