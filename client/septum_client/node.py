"""A hospital's two Flower processes: what is started, with which files and which environment.

The SuperNode alone speaks to the coordinator; it reads its own key and the
coordinator's certificate, never a cohort. SuperExec alone starts training, and
what it starts is :mod:`septum_client.guard`; it speaks to the SuperNode over
the loopback interface and to nothing else.

Nothing here imports torch: Flower gives up a task whose process has not spoken
within 30 seconds, and the supervisor need not be large.
"""

import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import Final

from septum.durable import replace
from septum.errors import DataError
from septum.processes import Service

SUPERNODE: Final = "supernode"
SUPEREXEC: Final = "superexec"

SITE: Final = "SEPTUM_SITE"
"""The variable that tells the guard the site's directory; it never reaches the SuperNode."""

CLIENT: Final = "flwr-clientapp"
_OTHERS: Final = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp",
                  "flwr-simulation")  # fmt: skip

_GUARDED: Final = """\
#!/bin/sh
exec {python} -P -m septum_client.guard
"""
_REFUSED: Final = """\
#!/bin/sh
echo "$0 is not run at a hospital: refused." >&2
exit 1
"""


def services(folder: Path, *, address: str, ca: str, port: int) -> tuple[Service, Service]:
    """Return the site's SuperNode and SuperExec, in the order of starting.

    Writes what they read into the site's ``flower/``: the certificate, a fresh
    secret between the two, and the programs that SuperExec finds.

    Args:
      folder: The site's directory.
      address: The coordinator, as ``host:port``.
      ca: Certificates (PEM), one of which must have signed the coordinator's.
      port: A free port of the loopback interface for the two to speak over.

    Guarantees:
      - ``flwr-clientapp`` is the guard; no other program of Flower can be started.
      - No secret is an argument of either process, or of what they start.

    Raises:
      DataError: A file cannot be written.
    """
    folder = folder.absolute()
    home = folder / "flower"
    for made in (home, home / "bin", home / "cache"):
        made.mkdir(mode=0o700, exist_ok=True)
    _write(home / "coordinator.crt", ca)
    _write(home / "secret", secrets.token_urlsafe(48))
    guarded = _GUARDED.format(python=shlex.quote(sys.executable))
    for name, text in {CLIENT: guarded, **dict.fromkeys(_OTHERS, _REFUSED)}.items():
        _write(home / "bin" / name, text, mode=0o700)
    runtime = f"127.0.0.1:{port}"
    secret = ("--superexec-auth-secret-file", str(home / "secret"))
    # Matplotlib comes with MONAI and wants a folder; a fresh one for each process would be left.
    quiet = {"FLWR_HOME": str(home), "MPLCONFIGDIR": str(home / "cache")}
    supernode = Service(
        name=SUPERNODE,
        argv=(
            sys.executable, "-P", "-m", "septum_client.supernode",
            "--superlink", address,
            "--root-certificates", str(home / "coordinator.crt"),
            "--auth-supernode-private-key", str(folder / "node.key"),
            "--isolation", "process",
            "--host", "127.0.0.1",
            "--port", str(port),
            *secret,
        ),
        env=quiet,
    )  # fmt: skip
    superexec = Service(
        name=SUPEREXEC,
        argv=(
            sys.executable, "-P", "-m", "septum.superexec",
            "--insecure",  # loopback alone
            "--runtime-api-address", runtime,
            *secret,
        ),
        env={
            **quiet,
            "PATH": f"{home / 'bin'}:/usr/bin:/bin",
            SITE: str(folder),
        },
    )  # fmt: skip
    return supernode, superexec


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(path: Path, text: str, *, mode: int = 0o600) -> None:
    try:
        replace(path, lambda file: file.write(text.encode()))
        path.chmod(mode)
    except OSError as error:
        raise DataError(
            f"{path.name} could not be written ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then run again.",
        ) from None
