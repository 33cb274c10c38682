"""A coordinator and its hospitals on one machine: real folders, real processes, real TLS.

What people do by their commands is done here by the functions behind those
commands, in the same order and with the same files handed over. Nothing is
mocked: what differs from a deployment is that all addresses are loopback.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from septum.errors import EngineError, SeptumError
from septum.joining import SiteCard, read_card, read_invitation
from septum.processes import Service, Supervisor
from septum.signed_study import SignedStudy
from septum.signing import fingerprint
from septum.study import load
from septum_client.approve import approve
from septum_client.card import CARD, write_card
from septum_client.join import join
from septum_client.node import free_port
from septum_client.site import Site
from septum_server import rounds
from septum_server.coordinator import Coordinator, settings_of
from septum_server.draft import commented
from septum_server.launch import desk, listens
from septum_server.rounds import RoundRecord
from septum_server.studies import begin, invitation_of, sign_study

SERVER: Final = "server"
_LOOK_S: Final = 0.5
_START_S: Final = 300.0  # on a machine that is busy with much else
_PERSON: Final = "the demonstration"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One signed study, its coordinator, and the hospitals that approved it."""

    coordinator: Coordinator
    sites: Mapping[str, Site]
    signed: SignedStudy

    @property
    def digest(self) -> str:
        """The study's digest."""
        return self.signed.study.digest

    @property
    def folder(self) -> Path:
        """Where the coordinator keeps rounds and models of the study."""
        return self.coordinator.run_folder(self.digest)

    def rounds(self) -> list[RoundRecord]:
        """Return the recorded rounds."""
        return rounds.read(self.folder) if self.folder.exists() else []


def make_coordinator(folder: Path) -> Coordinator:
    """Make a coordinator that listens on three free ports of the loopback interface."""
    ports = dict(zip(("port", "control_port", "inner_port"), _ports(3), strict=True))
    settings = settings_of(
        address=f"127.0.0.1:{ports['port']}", bind="127.0.0.1", least_free_mib=64, **ports
    )
    return Coordinator.create(folder, settings, now=datetime.now(UTC))


def card_of(site: Site, *, patients: int) -> SiteCard:
    """Let ``site`` declare ``patients``, and return the card that it sends."""
    write_card(site.folder, name=site.name, patients=patients)
    return read_card(site.folder / CARD)


def agree(
    coordinator: Coordinator, sites: Mapping[str, Site], fields: Mapping[str, Any], *, folder: Path
) -> Deployment:
    """Take a study from its TOML to the approval of every hospital.

    Args:
      coordinator: Signs and invites.
      sites: By name; each compares the fingerprint, joins and approves.
      fields: The study's, with the hospitals' keys.
      folder: Gets ``study.toml`` and the invitations, as they are handed over.

    Raises:
      SeptumError: A hospital's policy refuses the study, or its cohort does not fit.
    """
    now = datetime.now(UTC)
    written = folder / "study.toml"
    written.write_text(commented(dict(fields)), encoding="utf-8")
    signed = sign_study(coordinator, load(written), weights=None, today=now.date())
    for name, site in sites.items():
        invitation = folder / f"invite-{name}.toml"
        text = invitation_of(coordinator, signed.study.digest, name).to_toml()
        invitation.write_text(text, encoding="utf-8")
        offered = join(
            site, read_invitation(invitation), heard=fingerprint(coordinator.public), now=now
        )
        approve(site, offered, by=_PERSON, now=now)
    return Deployment(coordinator=coordinator, sites=dict(sites), signed=signed)


def services(deployment: Deployment) -> tuple[Service, ...]:
    """Return ``septum server up`` and one ``septum site up`` for each hospital, as processes."""
    side = (sys.executable, "-P", "-m", "septum_bench.deployment_side")
    port = deployment.coordinator.settings.port
    server = Service(
        name=SERVER,
        argv=(*side, "server", str(deployment.coordinator.folder.absolute())),
        ready=lambda: listens(port),
        ready_s=_START_S,
    )
    sites = (
        Service(name=name, argv=(*side, "site", str(site.folder.absolute())))
        for name, site in deployment.sites.items()
    )
    return (server, *sites)


@contextmanager
def running(
    deployment: Deployment, folder: Path, *, notice: Callable[[str], None] | None = None
) -> Iterator[Supervisor]:
    """Run all processes of all sides; their logs are in each side's own ``logs/``.

    Guarantees:
      - Afterwards none of them is left.

    Raises:
      EngineError: The server did not come up.
    """
    with Supervisor(services(deployment), folder, notice=notice) as supervisor:
        yield supervisor


def connected(deployment: Deployment) -> list[str]:
    """Return the names of the hospitals that are connected now; none while the server is not up."""
    keys = {site.node_key: site.name for site in deployment.signed.study.sites}
    try:
        with desk(deployment.coordinator) as control:
            return sorted(keys[n.key] for n in control.nodes() if n.online and n.key in keys)
    except SeptumError:
        return []


def start(deployment: Deployment, *, resume: bool = False) -> int:
    """Start or resume the study, and return the run's number."""
    today = datetime.now(UTC).date()
    with desk(deployment.coordinator) as control:
        return begin(deployment.coordinator, control, deployment.digest, resume=resume, today=today)


def ended(deployment: Deployment) -> str:
    """Return how the study's latest run ended, or nothing while it runs or cannot be asked."""
    try:
        with desk(deployment.coordinator) as control:
            latest = control.runs(deployment.digest)[:1]
    except SeptumError:
        return ""
    return f"{latest[0].status} {latest[0].details}".strip() if latest and latest[0].ended else ""


def until(done: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait for ``done``.

    Raises:
      EngineError: It did not happen within ``seconds``; says ``what`` did not.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise EngineError(
                f"{what} did not happen within {seconds:g} s.",
                remedy="Look into the logs/ of the coordinator and of the hospitals.",
            )
        time.sleep(_LOOK_S)


def audited(deployment: Deployment) -> dict[str, int]:
    """Verify both sides' records against each other; return the rounds charged at each site.

    Raises:
      LedgerError: A site's chain does not verify.
      EngineError: The coordinator recorded a release that a site's chain does not hold.
    """
    charged: dict[str, int] = {}
    for name, site in deployment.sites.items():
        site.ledger.verify()
        known = {entry.digest for entry in site.ledger.entries()}
        for entry in deployment.rounds():
            if name in entry.heads and entry.heads[name] not in known:
                raise EngineError(f"round {entry.round} of {name} is not in its ledger.")
        charged[name] = len(site.ledger.charges(deployment.digest))
    return charged


def _ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found:
            found.append(port)
    return found
