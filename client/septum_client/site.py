"""A hospital's own directory: keys, policy, approved studies, cohort, ledger. It never leaves.

::

    site.toml        the public name
    site-card.toml   name and public keys: the one file here that is sent to the coordinator
    key              32 secret bytes; pseudonyms are keyed by them
    signing.key      signs approvals, releases and refusals
    node.key         lets the site's connection in at the coordinator; node.pub is its public half
    link.secret      after `septum site split`, which moves node.key: what the halves share
    coordinator.toml whom the site joined: address, certificate, key
    revoked.txt      public keys that the site believes no longer; `end` is its last line
    policy.toml      the hospital's limits
    offered/         one study a file, as its coordinator signed it; nothing trains from here
    approved/        one study a file, named by digest, and the site's own signature beside it
    cohort/          de-identified tensors
    consent/         registers of consent, and who was withdrawn
    inbox/           de-identified files that a PACS sent
    review/          images that wait for a person's look, and the decisions
    rounds/          which pseudonyms were in the cohort at which round
    purged/          what was deleted, and when
    ledger.sqlite    what was spent
    outbox/          releases, kept so that a lost answer is repeated, not retrained
    turns/           one empty file a study, locked while a round of it is trained
    private.log      why something was refused, in full
"""

import contextlib
import json
import os
import re
import secrets
import tomllib
import traceback
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from septum.durable import replace
from septum.errors import Code, ConfigError, DataError, LedgerError, Refusal
from septum.signed_study import SignedStudy, check, in_force, parse_signed
from septum.signing import SigningKey
from septum.study import Study, parse
from septum_client import approval
from septum_client.budget import Ledger
from septum_client.policy import Policy
from septum_client.policy import load as load_policy

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Site:
    """An opened site directory.

    Args:
      folder: Where it is.
      name: Public name.
      simulated: ``site.toml`` says that no hospital's data is in it: as long as it
        joined nobody, it believes whoever signed what it approved.
    """

    folder: Path
    name: str
    simulated: bool = False

    @staticmethod
    def create(
        folder: Path,
        *,
        name: str,
        policy: Policy,
        key: bytes | None = None,
        signing: SigningKey | None = None,
        simulated: bool = False,
    ) -> "Site":
        """Make a new site; the directory is readable by its owner alone.

        Args:
          folder: Where to make it.
          name: Public name.
          policy: The hospital's limits.
          key: 32 secret bytes. Fresh from the system unless the bench, which
            must be reproducible, passes its own.
          signing: The key that it signs with; fresh likewise.
          simulated: Only the bench says so: this site trains without joining anybody.

        Raises:
          ConfigError: The name is not lower-case letters, digits and hyphens, or
            the directory already holds a site.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "a site's name has 1 to 63 lower-case letters, digits and hyphens.",
                remedy="Choose such a name; it is public.",
            )
        from septum_client import card  # noqa: PLC0415 - it imports this one

        parts = ("site.toml", "key", "signing.key", "node.key", "policy.toml", "ledger.sqlite")
        held = [part for part in parts if (folder / part).exists()]
        if held:
            raise ConfigError(
                f"{folder} already holds {', '.join(held)} of a site.",
                remedy="Use that site, restore what it lacks, or choose another folder.",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for part in ("approved", "consent", "outbox"):
            (folder / part).mkdir(mode=0o700, exist_ok=True)
        write_durably(folder / "key", key or secrets.token_bytes(32))
        card.make_keys(folder, signing=signing)
        card.write_card(folder, name=name)
        write_durably(folder / "policy.toml", policy.to_toml().encode())
        Ledger(
            folder / "ledger.sqlite"
        ).verify()  # begins the chain: from now on, absent means lost
        said = f'name = "{name}"\n' + ("simulated = true\n" if simulated else "")
        write_durably(folder / "site.toml", said.encode())
        return Site(folder=folder, name=name, simulated=simulated)

    @staticmethod
    def open(folder: Path) -> "Site":
        """Open the site at ``folder``; ConfigError if there is none."""
        try:
            said = tomllib.loads((folder / "site.toml").read_text(encoding="utf-8"))
            name = str(said["name"])
        except (OSError, KeyError, ValueError):
            said, name = {}, ""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "the site directory cannot be opened.", remedy="Run `septum site init` first."
            )
        return Site(folder=folder, name=name, simulated=said.get("simulated") is True)

    @property
    def key(self) -> bytes:
        """The site's secret: 32 bytes."""
        return (self.folder / "key").read_bytes()

    @property
    def ledger(self) -> Ledger:
        """The site's ledger.

        Raises:
          LedgerError: The file is gone: a fresh one would forget what was spent.
        """
        if not self.ledger_path.exists():
            raise LedgerError(
                "the site's ledger is missing.",
                remedy="Restore it from a backup; what was spent is in it.",
            )
        return Ledger(self.ledger_path)

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is."""
        return self.folder / "ledger.sqlite"

    @property
    def cohort_path(self) -> Path:
        """Where the cohort is."""
        return self.folder / "cohort"

    @property
    def policy(self) -> Policy:
        """The policy, read anew: a hospital may tighten it between two rounds."""
        return load_policy(self.folder / "policy.toml")

    @property
    def signing(self) -> SigningKey:
        """The key that the site signs with."""
        return SigningKey.load(self.folder / "signing.key")

    def approve(
        self, study: Study | SignedStudy, *, by: str = "unnamed", at: datetime | None = None
    ) -> str:
        """Say yes to ``study`` by the site's own signature, keep both, and return its digest.

        Args:
          study: As its coordinator signed it. A study that nobody signs is for
            the bench and for tests: a hospital's commands never pass one.
          by: Who says yes.
          at: When, with its zone; now unless told.
        """
        signed = isinstance(study, SignedStudy)
        plain = study.study if isinstance(study, SignedStudy) else study
        if plain.coordinator and not signed:
            raise ConfigError(
                "the study names a coordinator, and its signature is not here.",
                remedy="Approve the signed study.",
            )
        given = approval.give(
            self.signing, plain, site=self.name, by=by, at=at or datetime.now(UTC)
        )
        folder = self.folder / "approved"
        write_durably(folder / f"{plain.digest}.toml", study.to_toml().encode())
        write_durably(folder / f"{plain.digest}.approval", given.to_toml().encode())
        return plain.digest

    def approved(self, digest: str, *, today: date | None = None) -> Study:
        """Return the approved study with this digest.

        Args:
          digest: Of the study.
          today: Ask also whether it may train on this day, in UTC: its
            coordinator is still the one that the site joined, no key is revoked,
            and neither it nor one of its approvals has ended.

        Raises:
          Refusal: With :attr:`Code.UNKNOWN_STUDY`: not approved here, or the file
            no longer has the digest that was approved, or the approval is not this
            site's signature; with :attr:`Code.STUDY_INVALID`: it is no study that
            this version can hold; else as :func:`septum.signed_study.check`.
        """
        from septum_client.coordinator import trusted  # noqa: PLC0415 - it imports this one

        path = self.folder / "approved" / f"{digest}.toml"
        if not _DIGEST.fullmatch(digest) or not path.is_file():
            raise Refusal(
                Code.UNKNOWN_STUDY,
                "this site has not approved the study.",
                remedy="Review it and run `septum site approve`.",
            )
        signed = _read(path)
        study = signed.study
        if study.digest != digest:
            raise Refusal(
                Code.UNKNOWN_STUDY,
                "the approved study was altered on disk.",
                remedy="Remove the file and approve the study again.",
            )
        key = self.signing.public
        approval.check(_text(path.with_suffix(".approval")), study, site=self.name, public=key)
        if today is not None:
            alone = study.coordinator if self.simulated else None
            believed, revoked = trusted(self.folder, simulated=alone)
            if not believed:  # a simulated site that joined nobody, and a study that nobody signs
                in_force(study, today=today)
                return study
            check(
                signed,
                coordinator=believed, site=self.name, today=today, revoked=revoked, site_key=key,
            )  # fmt: skip
        return study

    def log(self, code: Code, error: BaseException) -> None:
        """Add a failure in full to the site's private log, which nothing sends."""
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": code.value,
            "error": "".join(traceback.format_exception(error)),
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # A full disk must not turn a refusal into an exception that Flower would send on.
        with (
            contextlib.suppress(OSError),
            os.fdopen(os.open(self.folder / "private.log", flags, 0o600), "a") as log,
        ):
            log.write(json.dumps(line) + "\n")


def _text(path: Path) -> str:
    """Return the text of ``path``, byte for byte; nothing if there is none."""
    try:
        # Not read_text, which would hide a changed line end.
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _read(path: Path) -> SignedStudy:
    """Return the study at ``path``; one that nobody signed has an empty signature."""
    text = _text(path)
    if text.startswith("signature"):
        return parse_signed(text, source=path.name)
    try:
        return SignedStudy(study=parse(text, source=path.name), signature="")
    except ConfigError as error:
        raise Refusal(Code.STUDY_INVALID, error.message, remedy=error.remedy) from None


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` at mode 0600, whole or not at all, and fsync it.

    Raises:
      DataError: The disk is full or the folder cannot be written.
    """
    try:
        replace(path, lambda file: file.write(content))
    except OSError as error:
        raise DataError(
            f"{path.name} could not be written ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then run again.",
        ) from None
