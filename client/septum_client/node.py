"""A hospital's two Flower processes: what is started, with which files and which environment.

The SuperNode alone speaks to the coordinator; it reads its own key and the
coordinator's certificate, never a cohort. SuperExec alone starts training, and
what it starts is :mod:`septum_client.guard`; it speaks to the SuperNode over
the loopback interface and to nothing else. Where the two are halves with a user
and a network each, one socket in the file system is between them.

Nothing here imports torch: Flower gives up a task whose process has not spoken
within 30 seconds, and the supervisor need not be large.
"""

import os
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import Final

from septum.durable import replace
from septum.errors import ConfigError, DataError
from septum.forking import READY
from septum.processes import Service

SUPERNODE: Final = "supernode"
SUPEREXEC: Final = "superexec"
LINK: Final = "link"

NODE_KEY: Final = "node.key"
SECRET: Final = "link.secret"  # noqa: S105 - the name of a file
"""What the halves of a site know each other by; a copy in the directory of each."""

_LINK_FOLDER: Final = (
    "Give it to the user that connects, with mode 0710 and a group of the user that trains."
)
_LONGEST: Final = 107  # bytes; sun_path of unix(7), without its last

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
    """Return the site's SuperNode and SuperExec, in the order of starting, for one user.

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
      ConfigError: The node key is not here.
      DataError: A file cannot be written.
    """
    secret = _home(folder) / "secret"
    _write(secret, secrets.token_urlsafe(48))
    return (
        _supernode(folder, address=address, ca=ca, port=port, secret=secret),
        _superexec(folder, port=port, secret=secret),
    )


def node_services(folder: Path, *, address: str, ca: str, link: Path) -> tuple[Service, Service]:
    """Return the half that speaks to the coordinator: SuperNode, and its end of the link.

    Args:
      folder: The node's own directory (:mod:`septum_client.halves`).
      address: As in :func:`services`.
      ca: As in :func:`services`.
      link: Where the socket between the halves is made.

    Guarantees:
      - Neither is told where the site, its cohort or its signing key is.
      - The socket is made only in a folder that its owner and its group alone pass
        through: whoever reaches it can take every place of the other half.

    Raises:
      ConfigError: The node key is not here, or ``link`` cannot be a socket's path,
        or every user of the machine could reach it.
      DataError: A file cannot be written.
    """
    port = free_port()
    path = _path_of(link)
    _only_for_two(path.parent)
    secret = folder.absolute() / SECRET
    return (
        _supernode(folder, address=address, ca=ca, port=port, secret=secret),
        _relay(str(path), f"127.0.0.1:{port}"),
    )


def client_services(folder: Path, *, link: Path) -> tuple[Service, Service]:
    """Return the half that trains: its end of the link, and SuperExec.

    Args:
      folder: The site's directory.
      link: The socket that the other half made.

    Guarantees:
      - Neither is told the coordinator's address, or where the node key is.

    Raises:
      ConfigError: ``link`` cannot be a socket's path.
      DataError: A file cannot be written.
    """
    port = free_port()
    return (
        _relay(f"127.0.0.1:{port}", str(_path_of(link))),
        _superexec(folder, port=port, secret=folder.absolute() / SECRET),
    )


def _home(folder: Path) -> Path:
    home = folder.absolute() / "flower"
    for made in (home, home / "cache"):
        try:
            made.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unwritten(made, error) from None
    return home


def _quiet(home: Path) -> dict[str, str]:
    # Matplotlib comes with MONAI and wants a folder; a fresh one for each process would be left.
    return {"FLWR_HOME": str(home), "MPLCONFIGDIR": str(home / "cache")}


def _supernode(folder: Path, *, address: str, ca: str, port: int, secret: Path) -> Service:
    home = _home(folder)
    key = folder.absolute() / NODE_KEY
    if not key.is_file():
        raise ConfigError(
            f"{folder} has no {NODE_KEY}.",
            remedy="Where `septum site split` moved it, start each half by its own --only; "
            "else restore it from a backup.",
        )
    _write(home / "coordinator.crt", ca)
    return Service(
        name=SUPERNODE,
        argv=(
            sys.executable, "-P", "-m", "septum_client.supernode",
            "--superlink", address,
            "--root-certificates", str(home / "coordinator.crt"),
            "--auth-supernode-private-key", str(key),
            "--isolation", "process",
            "--host", "127.0.0.1",
            "--port", str(port),
            "--superexec-auth-secret-file", str(secret),
        ),
        env=_quiet(home),
    )  # fmt: skip


def _superexec(folder: Path, *, port: int, secret: Path) -> Service:
    home = _home(folder)
    (home / "bin").mkdir(mode=0o700, exist_ok=True)
    guarded = _GUARDED.format(python=shlex.quote(sys.executable))
    for name, text in {CLIENT: guarded, **dict.fromkeys(_OTHERS, _REFUSED)}.items():
        _write(home / "bin" / name, text, mode=0o700)
    return Service(
        name=SUPEREXEC,
        argv=(
            sys.executable, "-P", "-m", "septum.superexec",
            "--insecure",  # loopback alone
            "--runtime-api-address", f"127.0.0.1:{port}",
            "--superexec-auth-secret-file", str(secret),
        ),
        env={
            **_quiet(home),
            "PATH": f"{home / 'bin'}:/usr/bin:/bin",
            SITE: str(folder.absolute()),
            READY: CLIENT,
        },
    )  # fmt: skip


def _relay(listen: str, target: str) -> Service:
    argv = (sys.executable, "-P", "-m", "septum_client.relay", listen, target)
    return Service(name=LINK, argv=argv)


def _path_of(link: Path) -> Path:
    path = link.absolute()
    if (length := len(os.fsencode(path))) > _LONGEST:
        raise ConfigError(
            f"the path of the link has {length} bytes; the limit for a socket is {_LONGEST}.",
            remedy="Give --link a shorter path.",
        )
    return path


def _only_for_two(folder: Path) -> None:
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"the folder of the link cannot be used ({error.strerror}).",
            remedy=_LINK_FOLDER,
        ) from None
    if mode & 0o007:
        raise ConfigError(
            f"{folder} is open to every user of this machine (mode {mode & 0o777:04o}).",
            remedy=_LINK_FOLDER,
        )


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
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path.name} could not be written ({error.strerror}).",
        remedy="Free disk space or correct the folder's permissions, then run again.",
    )
