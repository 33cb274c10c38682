"""A study and its coordinator's signature, as one file that anybody checks offline.

The file is one line, ``signature = "…"``, above the study in its canonical form,
byte for byte. What can be said in two ways is refused: a comment, a blank or a
changed line end is a changed file, so that what a person compared, mailed and
archived is what was signed.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import tomlkit

from septum.errors import Code, ConfigError, Refusal, SignatureError
from septum.signing import Purpose, SigningKey, verify
from septum.study import Study, parse

LARGEST: Final = 1 << 20
"""Bytes of the largest signed study that is read."""

_FILE: Final = re.compile(r'signature = "([0-9a-f]{128})"\n\n(.*)', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class SignedStudy:
    """A study as its coordinator signed it; :func:`check` tells whether it did."""

    study: Study
    signature: str

    def to_toml(self) -> str:
        """Return the signed file, which :func:`parse_signed` reads back."""
        return f'signature = "{self.signature}"\n\n{_text(self.study)}'


def sign(study: Study, key: SigningKey) -> SignedStudy:
    """Return ``study`` signed by its coordinator, whose key it then names.

    Raises:
      ConfigError: The study names another coordinator, or a site without a key.
    """
    if study.coordinator not in {"", key.public}:
        raise ConfigError(
            f"the study names the coordinator {study.coordinator[:12]}…, and this key is "
            f"{key.public[:12]}….",
            remedy="Sign with that key, or remove the line from the study.",
        )
    nameless = [site.name for site in study.sites if not site.key]
    if nameless:
        raise ConfigError(
            f"sites.key is missing for {', '.join(nameless)}.",
            remedy="Take it from the site's card: no key, no answer can be believed.",
        )
    # Through the model, so that what the validators forbid of the key is forbidden here.
    named = Study.model_validate(study.model_dump() | {"coordinator": key.public})
    return SignedStudy(study=named, signature=key.sign(Purpose.STUDY, _statement(named)))


def load_signed(path: Path) -> SignedStudy:
    """Read a signed study file; nothing of it is believed before :func:`check`.

    Raises:
      ConfigError: The file cannot be read.
      Refusal: See :func:`parse_signed`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read ({error.strerror}).",
            remedy="Name a readable signed study.",
        ) from None
    try:
        # Not read_text, which would hide a changed line end.
        text = content.decode() if len(content) <= LARGEST else ""
    except UnicodeDecodeError:
        text = ""
    return parse_signed(text, source=path.name)


def parse_signed(text: str, *, source: str = "study") -> SignedStudy:
    """Read a signed study.

    Raises:
      Refusal: With :attr:`Code.STUDY_INVALID`: it holds an unknown key, or a value
        outside its limits; with :attr:`Code.STUDY_SIGNATURE`: it carries no
        signature, or is not, byte for byte, the form that is signed.
    """
    found = _FILE.fullmatch(text)
    if not found:
        raise Refusal(
            Code.STUDY_SIGNATURE,
            f"{source} does not begin with its coordinator's signature.",
            remedy="Ask the coordinator for the file that `septum study sign` wrote.",
        )
    try:
        study = parse(found[2], source=source)
    except ConfigError as error:
        raise Refusal(Code.STUDY_INVALID, error.message, remedy=error.remedy) from None
    if _text(study) != found[2]:
        raise Refusal(
            Code.STUDY_SIGNATURE,
            f"{source} was changed after it was signed: it is not in the signed form.",
            remedy="Ask the coordinator for the file again.",
        )
    return SignedStudy(study=study, signature=found[1])


def check(
    signed: SignedStudy,
    *,
    coordinator: str,
    site: str | None,
    today: date,
    revoked: Collection[str] = (),
    site_key: str | None = None,
) -> None:
    """Accept a signed study, offline, or refuse it with one closed code.

    Args:
      signed: From :func:`load_signed`.
      coordinator: The public key that the reader knows as the coordinator's, from
        a fingerprint compared over another channel. Never the study's own word.
      site: The hospital that reads it, which the study must name; None for
        whoever only wants to know that it is genuine.
      today: In UTC.
      revoked: Public keys that are no longer believed.
      site_key: The hospital's own public key, which the study must give it.

    Raises:
      Refusal: With :attr:`Code.OTHER_COORDINATOR`, :attr:`Code.KEY_REVOKED`,
        :attr:`Code.STUDY_SIGNATURE`, :attr:`Code.STUDY_EXPIRED`,
        :attr:`Code.STUDY_NOT_ALLOWED` or :attr:`Code.OTHER_SITE_KEY`.
    """
    study = signed.study
    if study.coordinator and study.coordinator != coordinator:
        raise Refusal(
            Code.OTHER_COORDINATOR,
            f"the study names the coordinator {study.coordinator[:12]}…; "
            f"{coordinator[:12] or 'none'}… is the one accepted here.",
            remedy="Join that coordinator first, after comparing its fingerprint.",
        )
    if study.coordinator in revoked:
        raise _revoked("the coordinator", study.coordinator)
    try:
        verify(study.coordinator, Purpose.STUDY, _statement(study), signed.signature)
    except SignatureError as error:
        raise Refusal(Code.STUDY_SIGNATURE, error.message, remedy=error.remedy) from None
    in_force(study, today=today)
    if site is None:
        return
    found = {each.name: each for each in study.sites}.get(site)
    if found is None:
        raise Refusal(
            Code.STUDY_NOT_ALLOWED,
            f"the study is not for {site}: it does not name this site.",
            remedy="Ask the coordinator for a study that names this site.",
        )
    if site_key is not None and found.key != site_key:
        raise Refusal(
            Code.OTHER_SITE_KEY,
            f"the study gives {site} the key {found.key[:12] or 'none'}…, and this site's is "
            f"{site_key[:12]}….",
            remedy="Send the coordinator this site's present card, and ask for a study with it.",
        )
    if found.key in revoked:
        raise _revoked(site, found.key)


def in_force(study: Study, *, today: date) -> None:
    """Refuse a study whose last day, or that of one of its approvals, has passed.

    Raises:
      Refusal: With :attr:`Code.STUDY_EXPIRED`; says which.
    """
    ends = [("the study", study.expires)]
    ends += [(f"approval {each.number} of {each.body}", each.expires) for each in study.approvals]
    for what, last in ends:
        if last and date.fromisoformat(last) < today:
            raise Refusal(
                Code.STUDY_EXPIRED,
                f"{what} ended on {last}; today is {today.isoformat()}.",
                remedy="Ask the coordinator for a renewed study.",
            )


def _revoked(whose: str, key: str) -> Refusal:
    return Refusal(
        Code.KEY_REVOKED,
        f"the key {key[:12]}… of {whose} is revoked here.",
        remedy="Ask for a study under a new key, after comparing its fingerprint.",
    )


def _statement(study: Study) -> dict[str, str | int | float | bool]:
    return {"study": study.digest}


def _text(study: Study) -> str:
    return tomlkit.dumps(study.canonical())
