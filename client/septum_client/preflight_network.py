"""Does the coordinator's one address answer, with the certificate that was agreed on, and the time?

Asked through the very port and proxy that the site's process will use. The
request is empty: a path that names no site, no study and no run.
"""

import http.client
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from septum.joining import host_of, port_of
from septum_client.preflight_findings import Finding, look, ok, stop

ASKED: Final = "/v1/fleet/"
TIMEOUT_S: Final = 10.0
MOST_SKEW_S: Final = 240
"""Flower refuses a node whose signed time is 305 s off; the rest is left to the journey."""

_WORTH_A_LOOK_S: Final = 30
_RENEW_DAYS: Final = 14
_PROXY: Final = re.compile(r"(?:http://)?(?:(?P<user>[^@/]+)@)?(?P<host>[^:@/]+):(?P<port>\d+)/?")

# OpenSSL's numbers for why a chain does not verify (x509_vfy.h), and what a hospital does.
_CHAIN: Final[Mapping[int, tuple[str, str]]] = {
    9: ("is not valid yet", "Compare this machine's clock with a time server."),
    10: ("has expired", "Ask the coordinator to renew it: `septum server renew`."),
    18: ("is signed by itself, not by the agreed CA", "Do not connect; call the coordinator."),
    19: ("is signed by another CA than agreed", "Do not connect; call the coordinator."),
    20: ("is signed by another CA than agreed", "Do not connect; call the coordinator."),
    21: ("is signed by another CA than agreed", "Do not connect; call the coordinator."),
    62: ("is of another host", "Ask the coordinator which name its certificate holds."),
    64: ("is of another address", "Ask the coordinator which name its certificate holds."),
}


@dataclass(frozen=True, kw_only=True)
class _Answer:
    protocol: str
    until: datetime
    date: str


def check_network(
    address: str, ca: str, *, now: datetime, environment: Mapping[str, str]
) -> list[Finding]:
    """Return what stands between this machine and ``address``.

    Args:
      address: ``host:port`` of the coordinator.
      ca: The agreed CA's certificates, PEM.
      now: This machine's time, with its zone.
      environment: ``HTTPS_PROXY`` and ``NO_PROXY``, as the site's process will have them.
    """
    proxy = proxy_for(host_of(address), environment)
    way = f" through the proxy {proxy[0]}:{proxy[1]}" if proxy else ""
    try:
        answer = _ask(address, ca, proxy=proxy, user=_user(environment) if proxy else "")
    except ssl.SSLCertVerificationError as error:
        reason, remedy = _CHAIN.get(
            error.verify_code, ("does not verify", "Call the coordinator before going on.")
        )
        return [
            ok("reach", f"{address} answers{way}"),
            stop("certificate", f"the certificate of {address} {reason}", remedy),
        ]
    except ssl.SSLError as error:
        return [
            ok("reach", f"{address} answers{way}"),
            stop(
                "certificate",
                f"no TLS 1.2 or later could be agreed ({error.reason or 'closed'})",
                "Ask whether a firewall opens TLS here, and the coordinator which port it serves.",
            ),
        ]
    except (OSError, http.client.HTTPException) as error:
        return [stop("reach", f"{address} does not answer{way} ({_why(error)})", _where(error))]
    return [
        ok("reach", f"{address} answers{way}"),
        _certificate(answer, address, now=now),
        _clock(answer.date, now=now),
    ]


def proxy_for(host: str, environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Return host and port of the proxy on the way to ``host``; None where there is none."""
    found = _PROXY.fullmatch(_variable(environment, "HTTPS_PROXY"))
    direct = [name.strip().lstrip(".") for name in _variable(environment, "NO_PROXY").split(",")]
    if found is None or any(
        name in {"*", host} or (name and host.endswith(f".{name}")) for name in direct
    ):
        return None
    return found["host"], int(found["port"])


def _ask(address: str, ca: str, *, proxy: tuple[str, int] | None, user: str) -> _Answer:
    context = ssl.create_default_context(cadata=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    host, port = proxy or (host_of(address), port_of(address))
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    if proxy:
        secret = b64encode(user.encode()).decode()
        headers = {"Proxy-Authorization": f"Basic {secret}"} if user else {}
        connection.set_tunnel(host_of(address), port_of(address), headers)
    try:
        connection.connect()
        found = connection.sock
        # Before the answer, after which the connection may be closed.
        certificate, protocol = found.getpeercert() or {}, found.version() or "TLS"
        connection.request("GET", ASKED)
        date = connection.getresponse().getheader("Date", "")
        return _Answer(
            protocol=protocol,
            until=datetime.fromtimestamp(
                ssl.cert_time_to_seconds(str(certificate["notAfter"])), tz=UTC
            ),
            date=date,
        )
    finally:
        connection.close()


def _certificate(answer: _Answer, address: str, *, now: datetime) -> Finding:
    days = (answer.until - now).days
    text = f"{answer.protocol}, signed by the agreed CA for {host_of(address)}, {days} days left"
    if days < _RENEW_DAYS:
        return look("certificate", text, "Ask the coordinator to renew it before the study starts.")
    return ok("certificate", text)


def _clock(date: str, *, now: datetime) -> Finding:
    try:
        theirs = parsedate_to_datetime(date)
        skew = round((now - theirs.astimezone(UTC)).total_seconds())
    except (ValueError, TypeError):
        return look(
            "clock", "the coordinator states no time", "Compare this clock with a time server."
        )
    text = f"{abs(skew)} s {'ahead of' if skew > 0 else 'behind'} the coordinator's"
    if abs(skew) > MOST_SKEW_S:
        return stop(
            "clock", f"{text}; the limit is {MOST_SKEW_S} s", "Set the clock by a time server."
        )
    if abs(skew) > _WORTH_A_LOOK_S:
        return look("clock", text, "Set the clock by a time server.")
    return ok("clock", f"within {_WORTH_A_LOOK_S} s of the coordinator's")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {TIMEOUT_S:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)[:200] or type(error).__name__


def _where(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "Ask the coordinator whether the server runs: `septum server up`."
    if isinstance(error, TimeoutError):
        return "Ask your network team to open this one address for outgoing HTTPS."
    return "Check the address in coordinator.toml, name resolution, and HTTPS_PROXY."


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.lower()) or environment.get(name) or ""


def _user(environment: Mapping[str, str]) -> str:
    found = _PROXY.fullmatch(_variable(environment, "HTTPS_PROXY"))
    return (found["user"] or "") if found else ""
