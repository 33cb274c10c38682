"""A hospital's own directory: key, policy, approved studies, cohort, ledger. It never leaves.

::

    site.toml        the public name
    key              32 secret bytes; pseudonyms are keyed by them
    policy.toml      the hospital's limits
    approved/        one study a file, named by digest
    cohort/          de-identified tensors
    consent/         registers of consent, and who was withdrawn
    inbox/           de-identified files that a PACS sent
    review/          images that wait for a person's look, and the decisions
    rounds/          which pseudonyms were in the cohort at which round
    purged/          what was deleted, and when
    ledger.sqlite    what was spent
    outbox/          releases, kept so that a lost answer is repeated, not retrained
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from septum.durable import replace
from septum.errors import Code, ConfigError, DataError, LedgerError, Refusal
from septum.study import Study, load
from septum_client.budget import Ledger
from septum_client.policy import Policy
from septum_client.policy import load as load_policy

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Site:
    """An opened site directory."""

    folder: Path
    name: str

    @staticmethod
    def create(folder: Path, *, name: str, policy: Policy, key: bytes | None = None) -> "Site":
        """Make a new site; the directory is readable by its owner alone.

        Args:
          folder: Where to make it.
          name: Public name.
          policy: The hospital's limits.
          key: 32 secret bytes. Fresh from the system unless the bench, which
            must be reproducible, passes its own.

        Raises:
          ConfigError: The name is not lower-case letters, digits and hyphens, or
            the directory already holds a site.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "a site's name has 1 to 63 lower-case letters, digits and hyphens.",
                remedy="Choose such a name; it is public.",
            )
        parts = ("site.toml", "key", "policy.toml", "ledger.sqlite")
        held = [part for part in parts if (folder / part).exists()]
        if held:
            raise ConfigError(
                f"{folder} already holds {', '.join(held)} of a site.",
                remedy="Use that site, restore what it lacks, or choose another folder.",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for part in ("approved", "outbox"):
            (folder / part).mkdir(mode=0o700, exist_ok=True)
        write_durably(folder / "key", key or secrets.token_bytes(32))
        write_durably(folder / "policy.toml", policy.to_toml().encode())
        Ledger(
            folder / "ledger.sqlite"
        ).verify()  # begins the chain: from now on, absent means lost
        write_durably(folder / "site.toml", f'name = "{name}"\n'.encode())
        return Site(folder=folder, name=name)

    @staticmethod
    def open(folder: Path) -> "Site":
        """Open the site at ``folder``; ConfigError if there is none."""
        try:
            name = str(tomllib.loads((folder / "site.toml").read_text(encoding="utf-8"))["name"])
        except (OSError, KeyError, ValueError):
            name = ""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "the site directory cannot be opened.", remedy="Run `septum site init` first."
            )
        return Site(folder=folder, name=name)

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

    def approve(self, study: Study) -> str:
        """Keep ``study`` as approved and return its digest."""
        write_durably(self.folder / "approved" / f"{study.digest}.toml", study.to_toml().encode())
        return study.digest

    def approved(self, digest: str) -> Study:
        """Return the approved study with this digest.

        Raises:
          Refusal: With :attr:`Code.UNKNOWN_STUDY`: not approved here, or the file
            no longer has the digest that was approved; with
            :attr:`Code.STUDY_INVALID`: it is no study that this version can hold.
        """
        path = self.folder / "approved" / f"{digest}.toml"
        if not _DIGEST.fullmatch(digest) or not path.is_file():
            raise Refusal(
                Code.UNKNOWN_STUDY,
                "this site has not approved the study.",
                remedy="Review it and run `septum site approve`.",
            )
        try:
            study = load(path)
        except ConfigError as error:
            raise Refusal(Code.STUDY_INVALID, error.message, remedy=error.remedy) from None
        if study.digest != digest:
            raise Refusal(
                Code.UNKNOWN_STUDY,
                "the approved study was altered on disk.",
                remedy="Remove the file and approve the study again.",
            )
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
