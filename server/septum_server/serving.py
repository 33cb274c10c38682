"""The two processes before the SuperLink: ``python -P -m septum_server.serving public|control``."""

import logging
import os
import shutil
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvicorn

from septum_server.connections import guarded
from septum_server.coordinator import VARIABLE, Coordinator
from septum_server.edge import Edge
from septum_server.limits import Limits
from septum_server.listening import BACKLOG, PatientLoop, Seldom, listen, raise_descriptors
from septum_server.node_keys import NodeKeys
from septum_server.relay import upstream

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MOST_CONNECTIONS: Final = 2048
_HEAD_BYTES: Final = 32 << 10
_IDLE_S: Final = 75
_LAST_S: Final = 5


def limits_of(coordinator: Coordinator) -> Limits:
    """Return the limits that the coordinator's settings ask for."""
    settings = coordinator.settings
    return Limits(
        body_bytes=settings.body_mib << 20,
        requests_per_s=settings.requests_per_s,
        burst=8 * settings.requests_per_s,
        least_free_bytes=settings.least_free_mib << 20,
    )


def public(coordinator: Coordinator) -> uvicorn.Config:
    """Return how the public port is served."""
    limits = limits_of(coordinator)
    nodes = NodeKeys(coordinator.folder)
    app = Edge(
        upstream(coordinator.settings.inner_port, ca=str(coordinator.ca_path)),
        gate=_gate(coordinator),
        limits=limits,
        free_bytes=lambda: shutil.disk_usage(coordinator.folder).free,
        known=lambda headers: nodes.signed(headers, now=datetime.now(UTC)),
    )
    return _config(
        coordinator,
        app,
        host=coordinator.settings.bind,
        port=coordinator.settings.port,
        limits=limits,
    )


def control(coordinator: Coordinator) -> uvicorn.Config:
    """Return how the operators' port is served: on the loopback interface alone."""
    # Here, because they import Flower, of which the public port needs nothing.
    from septum_server.control import look_into  # noqa: PLC0415
    from septum_server.control_desk import Desk  # noqa: PLC0415

    app = Desk(
        upstream(coordinator.settings.inner_port, ca=str(coordinator.ca_path)),
        gate=_gate(coordinator),
        operators=coordinator.operators_path,
        audited=coordinator.audit_path,
        check=look_into,
        now=lambda: datetime.now(UTC),
    )
    return _config(
        coordinator,
        app,
        host="127.0.0.1",
        port=coordinator.settings.control_port,
        limits=limits_of(coordinator),
    )


SERVED: Final[dict[str, Callable[[Coordinator], uvicorn.Config]]] = {
    "public": public,
    "control": control,
}


def main() -> None:
    """Serve until ended."""
    coordinator = Coordinator.open(Path(os.environ[VARIABLE]))
    serve(SERVED[sys.argv[1]](coordinator), each=limits_of(coordinator).connections)


def serve(config: uvicorn.Config, *, each: int) -> None:
    """Serve until ended, with at most ``each`` connections of one peer's address.

    Guarantees:
      - A connection is counted from the moment it is accepted, before its handshake.

    Raises:
      SystemExit: The port cannot be had; says why.
    """
    most = raise_descriptors()
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(Seldom())
    try:
        listener = listen(config.host, config.port, each=each, most=most)
    except OSError as error:
        sys.exit(f"port {config.port} of {config.host} cannot be had ({error.strerror}).")
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def strict(_: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return uvicorn's own context, for TLS 1.2 and later and forward-secret AEAD ciphers alone."""
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _config(
    coordinator: Coordinator, app: Any, *, host: str, port: int, limits: Limits
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=guarded(limits),
        loop=f"{PatientLoop.__module__}:{PatientLoop.__qualname__}",
        backlog=BACKLOG,
        ws="none",
        log_level="warning",
        access_log=False,
        # Nobody before the edge is believed about who asks.
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_LAST_S,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        ssl_certfile=coordinator.certificate_path,
        ssl_keyfile=coordinator.certificate_key_path,
        ssl_context_factory=strict,
    )


def _gate(coordinator: Coordinator) -> str:
    return (coordinator.folder / "gate").read_text(encoding="ascii")


if __name__ == "__main__":
    main()
