"""What ``site/pacs.toml`` says: who may push images, where to pull them from, every limit."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError, model_validator

from septum.errors import ConfigError, explain
from septum.toml_text import TomlError, as_json

# PS3.5 6.2, value representation AE: 1 to 16 printable characters, no backslash;
# leading and trailing spaces do not count, so they are not written here.
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Network = IPv4Network | IPv6Network

_MIB: Final = 2**20
_GIB: Final = 2**30


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Part):
    """TLS for the receiver (PS3.15 B.9, BCP 195); a peer must show a certificate.

    Args:
      certificate: PEM file with our chain.
      key: PEM file with our key.
      peers: PEM file with the authorities that sign the peers' certificates.
    """

    certificate: Path
    key: Path
    peers: Path


class Receive(_Part):
    """The C-STORE receiver.

    Args:
      ae_title: The called AE title; any other is rejected.
      peers: The calling AE titles that may push. No default: absent means no.
      networks: The addresses that may connect, each an address or a network.
      address: Where to listen; this machine alone unless said otherwise.
      port: TCP port; 0 lets the system choose, and it is announced.
      maximum_associations: At once.
      maximum_pdu: Bytes in one protocol data unit that a peer may send.
      maximum_instance: Bytes in one message; a longer one ends the association.
      idle_s: A peer that says nothing for so long is dropped.
      acse_s: Longest wait for an association request.
      tls: Plain TCP where absent.
    """

    ae_title: AeTitle = "SEPTUM"
    peers: tuple[AeTitle, ...] = Field(min_length=1)
    networks: tuple[str, ...] = Field(("127.0.0.1", "::1"), min_length=1)
    address: str = "127.0.0.1"
    port: int = Field(11112, ge=0, le=65535)
    maximum_associations: int = Field(4, ge=1, le=64)
    maximum_pdu: int = Field(131_072, ge=16_384, le=_MIB)
    maximum_instance: int = Field(256 * _MIB, ge=1, le=2 * _GIB)
    idle_s: float = Field(60, gt=0, le=3600)
    acse_s: float = Field(15, gt=0, le=300)
    tls: Tls | None = None

    @property
    def allowed(self) -> tuple[Network, ...]:
        """The networks, parsed."""
        return tuple(ip_network(text) for text in self.networks)

    @model_validator(mode="after")
    def _addresses_are_addresses(self) -> "Receive":
        try:
            ip_address(self.address)
            _ = self.allowed
        except ValueError:
            raise ValueError(
                "address and networks are IP addresses or networks, such as 10.2.0.7 or 10.2.0.0/24"
            ) from None
        return self


class Pull(_Part):
    """The DICOMweb server.

    Args:
      url: Base of QIDO-RS and WADO-RS; https, or http to this machine itself.
      authorization: How we say who we are, besides a client certificate.
      secret: File (mode 0600) with the token, or ``user:password`` for basic.
      authorities: PEM file with the authorities that sign the server's
        certificate; the public ones where absent.
      certificate: PEM file with our client certificate.
      key: PEM file with its key.
      environment_proxies: Whether ``HTTPS_PROXY`` and its kin are obeyed.
      timeout_s: Longest silence of the server.
      deadline_s: Longest time for one answer.
      attempts: How often a request is tried before it counts as failed.
      page: Results asked for at once.
      maximum_answer: Bytes of one search answer.
      maximum_instance: Bytes of one instance; a longer one is left out.
      maximum_instances: Where a pull stops, so that a wide query ends.
    """

    url: HttpUrl
    authorization: Literal["none", "bearer", "basic"] = "none"
    secret: Path | None = None
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    environment_proxies: bool = False
    timeout_s: float = Field(30, gt=0, le=600)
    deadline_s: float = Field(300, gt=0, le=7200)
    attempts: int = Field(4, ge=1, le=10)
    page: int = Field(500, ge=1, le=5000)
    maximum_answer: int = Field(32 * _MIB, ge=1, le=_GIB)
    maximum_instance: int = Field(256 * _MIB, ge=1, le=2 * _GIB)
    maximum_instances: int = Field(1_000_000, ge=1)

    @model_validator(mode="after")
    def _credentials_stay_ours(self) -> "Pull":
        if self.url.scheme != "https" and not _is_loopback(self.url.host or ""):
            raise ValueError("url is https, except to this machine itself")
        if self.url.username or self.url.password or self.url.query or self.url.fragment:
            raise ValueError("url holds no user, password, query or fragment")
        if (self.authorization == "none") != (self.secret is None):
            raise ValueError("authorization and secret are given together")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are given together")
        return self


class Quota(_Part):
    """How much the inbox holds before it refuses.

    Args:
      maximum_bytes: Of de-identified files together.
      maximum_files: De-identified files.
    """

    maximum_bytes: int = Field(200 * _GIB, ge=1)
    maximum_files: int = Field(1_000_000, ge=1)


class Settings(_Part):
    """All of ``pacs.toml``. A part that is absent is a door that is shut."""

    format: Literal[1] = 1
    receive: Receive | None = None
    pull: Pull | None = None
    inbox: Quota = Quota()


def load(path: Path) -> Settings:
    """Read the settings at ``path``; relative files in them are beside it.

    Raises:
      ConfigError: Absent, not TOML, an unknown key, or a value outside its limits.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{path.name} cannot be read, so no PACS may be talked to.",
            remedy="Write it with a [receive] or a [pull] part.",
        ) from None
    try:
        fields = as_json(text)
        return _beside(path.parent, Settings.model_validate_json(fields, strict=True))
    except (TomlError, ValidationError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path.name}: {reason}.", remedy="Correct that key.") from None


def _beside(folder: Path, settings: Settings) -> Settings:
    pull, receive = settings.pull, settings.receive
    if pull is not None:
        pull = pull.model_copy(update=_anchored(folder, pull))
    if receive is not None and receive.tls is not None:
        tls = receive.tls.model_copy(update=_anchored(folder, receive.tls))
        receive = receive.model_copy(update={"tls": tls})
    return settings.model_copy(update={"pull": pull, "receive": receive})


def _anchored(folder: Path, part: BaseModel) -> dict[str, Path]:
    return {name: folder / value for name, value in part if isinstance(value, Path)}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
