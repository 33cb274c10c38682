"""The coordinator's own folder: key, certificates, operators, studies, and what became of them.

::

    server.toml       where it listens and how hospitals reach it
    signing.key       what studies and instructions are signed with
    tls/              the CA and the server's certificate, with their keys
    operators.toml    who may steer it; tokens by their SHA-256
    operator.token    the token of the operator `local`, for commands on this machine
    secret            between SuperLink and SuperExec
    gate              between the edge and the SuperLink
    superlink.sqlite  Flower's state
    studies/          signed studies, one a file, named by digest
    runs/<digest>/    round records, checkpoints, and the public `weights/`
    logs/             of the processes
    revoked           sites' public keys that are believed no longer
    audit.log         each call of an operator
"""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import tomlkit
from pydantic import Field, ValidationError

from septum.durable import replace
from septum.errors import ConfigError, explain
from septum.joining import Address, host_of, port_of
from septum.signed_study import SignedStudy, load_signed
from septum.signing import SigningKey
from septum.toml_text import as_json
from septum.training import Part
from septum_server import certs
from septum_server.operators import Operators

VARIABLE: Final = "SEPTUM_COORDINATOR"
"""The variable that names the folder to the processes of one coordinator."""

LOCAL: Final = "local"
"""The operator in whose name the commands on this machine act."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHORTEST_PREFIX: Final = 8


class Settings(Part):
    """Where the server listens.

    Args:
      address: ``host:port`` as hospitals reach it; goes into invitations.
      bind: The interface of the public port.
      port: The public port: Flower's Fleet API behind the edge, nothing else.
      control_port: Of the loopback interface: for operators.
      inner_port: Of the loopback interface: the SuperLink.
      body_mib: Largest request body; Flower sends arrays in parts of 5 MiB.
      requests_per_s: Of one peer's address, in the long run; a burst may be eight times that.
      least_free_mib: With less free disk than this, uploads wait.
    """

    format: Literal[1] = 1
    address: Address
    bind: str = Field("0.0.0.0", min_length=1, max_length=64)  # noqa: S104 - hospitals must reach it
    port: int = Field(8443, ge=1, le=65535)
    control_port: int = Field(8444, ge=1, le=65535)
    inner_port: int = Field(8445, ge=1, le=65535)
    body_mib: int = Field(16, ge=6, le=256)
    requests_per_s: float = Field(50.0, gt=0, allow_inf_nan=False)
    least_free_mib: int = Field(1024, ge=0)


@dataclass(frozen=True, kw_only=True)
class Coordinator:
    """An opened coordinator folder."""

    folder: Path
    settings: Settings

    @staticmethod
    def create(folder: Path, settings: Settings, *, now: datetime) -> "Coordinator":
        """Make a new coordinator with its own keys; the folder is its owner's alone.

        Args:
          folder: Where to make it.
          settings: Where the server will listen.
          now: When its certificates begin.

        Raises:
          ConfigError: The folder holds one already.
        """
        held = [name for name in ("server.toml", "signing.key", "tls") if (folder / name).exists()]
        if held:
            raise ConfigError(
                f"{folder} already holds {', '.join(held)} of a coordinator.",
                remedy="Use that one, or choose another --folder.",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for name in ("tls", "studies", "runs", "logs", "flower"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        made = Coordinator(folder=folder, settings=settings)
        SigningKey.create().save(made.signing_key_path)
        ca = certs.make_ca(f"Septum coordinator {settings.address}", now=now)
        _write(folder / "tls" / "ca.crt", ca.certificate)
        _write(folder / "tls" / "ca.key", ca.key)
        made.renew(now=now)
        for name in ("secret", "gate"):
            _write(folder / name, secrets.token_urlsafe(48).encode())
        operators, token = Operators().add(LOCAL, "admin")
        operators.save(made.operators_path)
        _write(folder / "operator.token", token.encode())
        # Last: with it, the folder is a coordinator.
        _write(folder / "server.toml", tomlkit.dumps(settings.model_dump(mode="json")).encode())
        return made

    @staticmethod
    def open(folder: Path) -> "Coordinator":
        """Open the coordinator at ``folder``.

        Raises:
          ConfigError: There is none, or its settings cannot be used; names the key.
        """
        try:
            text = (folder / "server.toml").read_text(encoding="utf-8")
            fields = as_json(text)
            settings = Settings.model_validate_json(fields, strict=True)
        except OSError:
            raise ConfigError(
                f"{folder} holds no coordinator.", remedy="Run `septum server init` first."
            ) from None
        except ValidationError as error:
            raise ConfigError(
                f"server.toml: {explain(error)}.", remedy="Correct or remove the key it names."
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"server.toml is not valid TOML: {error}.", remedy="Correct the line it names."
            ) from None
        return Coordinator(folder=folder, settings=settings)

    @property
    def signing_key_path(self) -> Path:
        """Where the signing key is."""
        return self.folder / "signing.key"

    @property
    def signing_key(self) -> SigningKey:
        """The signing key; ConfigError if it is gone or others may read it."""
        return SigningKey.load(self.signing_key_path)

    @property
    def public(self) -> str:
        """The public key, which hospitals know by its fingerprint."""
        return self.signing_key.public

    @property
    def operators_path(self) -> Path:
        """Where the operators are."""
        return self.folder / "operators.toml"

    @property
    def audit_path(self) -> Path:
        """Where the audit is."""
        return self.folder / "audit.log"

    @property
    def ca_path(self) -> Path:
        """Where the CA's certificate is, which hospitals pin."""
        return self.folder / "tls" / "ca.crt"

    @property
    def certificate_path(self) -> Path:
        """Where the server's certificate is."""
        return self.folder / "tls" / "server.crt"

    @property
    def certificate_key_path(self) -> Path:
        """Where the key of the server's certificate is."""
        return self.folder / "tls" / "server.key"

    def days_left(self, *, now: datetime) -> int:
        """Return whole days until the server's certificate ends."""
        return certs.days_left(self.certificate_path.read_bytes(), now=now)

    def renew(self, *, now: datetime) -> None:
        """Give the server a fresh certificate of the same CA: hospitals need do nothing.

        Raises:
          ConfigError: The CA's key is kept elsewhere.
        """
        if not (self.folder / "tls" / "ca.key").exists():
            raise ConfigError(
                "the CA's key is not in tls/, so no certificate can be made here.",
                remedy="Make one where the key is kept (deploy/certs), and put it into tls/.",
            )
        tls = self.folder / "tls"
        certificate, key = ((tls / name).read_bytes() for name in ("ca.crt", "ca.key"))
        ca = certs.Issued(certificate=certificate, key=key)
        issued = certs.issue(ca, [host_of(self.settings.address)], now=now)
        # The two are read together by each process at its start, by nobody later.
        _write(self.certificate_key_path, issued.key)
        _write(self.certificate_path, issued.certificate)

    def revoked(self) -> frozenset[str]:
        """Return the sites' public keys that are believed no longer."""
        path = self.folder / "revoked"
        return frozenset(path.read_text(encoding="ascii").split()) if path.exists() else frozenset()

    def revoke(self, name: str) -> list[str]:
        """Believe no key of the hospital called ``name`` any more; return those that were new.

        Raises:
          ConfigError: No signed study names the hospital.
        """
        studies = [self.study(digest).study for digest in self.digests()]
        keys = {site.key for study in studies for site in study.sites if site.name == name}
        if not keys:
            raise ConfigError(
                f"no signed study names {name!r}.", remedy="`septum study list` shows the studies."
            )
        known = self.revoked()
        _write(self.folder / "revoked", "".join(f"{k}\n" for k in sorted(known | keys)).encode())
        return sorted(keys - known)

    def run_folder(self, digest: str) -> Path:
        """Return where the study's rounds, checkpoints and weights are."""
        return self.folder / "runs" / digest

    def keep(self, signed: SignedStudy) -> Path:
        """Keep a signed study and return its path."""
        path = self.folder / "studies" / f"{signed.study.digest}.toml"
        _write(path, signed.to_toml().encode())
        return path

    def digests(self) -> list[str]:
        """Return the digests of the signed studies, in order."""
        names = (path.stem for path in (self.folder / "studies").glob("*.toml"))
        return sorted(name for name in names if _DIGEST.fullmatch(name))

    def digest(self, prefix: str) -> str:
        """Return the one study whose digest begins with ``prefix``.

        Raises:
          ConfigError: None does, or several do, or it has fewer than 8 digits.
        """
        found = [digest for digest in self.digests() if digest.startswith(prefix)]
        if len(prefix) < _SHORTEST_PREFIX or len(found) != 1:
            raise ConfigError(
                f"{len(found)} signed studies begin with {prefix!r}.",
                remedy=f"Give at least {_SHORTEST_PREFIX} digits; `septum study list` shows them.",
            )
        return found[0]

    def study(self, digest: str) -> SignedStudy:
        """Return the signed study with this digest.

        Raises:
          ConfigError: There is none, or the file is not of that digest.
        """
        path = self.folder / "studies" / f"{digest}.toml"
        if not _DIGEST.fullmatch(digest) or not path.is_file():
            raise ConfigError(
                "no signed study has this digest.", remedy="Run `septum study sign` first."
            )
        signed = load_signed(path)
        if signed.study.digest != digest:
            raise ConfigError(
                f"{path.name} holds another study than its name says.",
                remedy="Sign the study again, or restore the file from a backup.",
            )
        return signed


def settings_of(**said: object) -> Settings:
    """Return the settings of what was said; what is ``None`` was not.

    Raises:
      ConfigError: A value is not of its form, or two ports are the same.
    """
    try:
        settings = Settings.model_validate({k: v for k, v in said.items() if v is not None})
    except ValidationError as error:
        raise ConfigError(f"{explain(error)}.", remedy="Correct that option.") from None
    ports = [settings.port, settings.control_port, settings.inner_port]
    if len(set(ports)) < len(ports) or not 0 < port_of(settings.address) < 1 << 16:
        raise ConfigError(
            f"the ports are {', '.join(map(str, ports))} and must differ.",
            remedy="Choose three different ports, and one from 1 to 65535 in the address.",
        )
    return settings


def _write(path: Path, content: bytes) -> None:
    replace(path, lambda file: file.write(content))
