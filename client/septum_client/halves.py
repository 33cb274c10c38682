"""The two halves of a site: what connects, and what trains; a user, a folder and a network each.

::

    the node's directory          the site directory
    node.key                      everything else: cohort, consent, keys, approvals, ledger
    coordinator.toml, revoked.txt (copies: address and certificate are read here)
    link.secret                   link.secret

Between them is one socket in the file system (:mod:`septum_client.relay`), so
that the half that trains needs no network at all.
"""

import errno
import os
import pwd
import secrets
import stat
from enum import StrEnum
from pathlib import Path
from typing import Final

from septum.errors import ConfigError
from septum_client.node import NODE_KEY, SECRET

_SITE: Final = "site.toml"
_LONGEST_KEY: Final = 1 << 16  # bytes; one has about 700


class Half(StrEnum):
    """One of the two."""

    NODE = "node"
    CLIENT = "client"


def split(folder: Path, node: Path) -> None:
    """Give the half that connects its own directory; run again after joining anew.

    Args:
      folder: The site directory, which has joined a coordinator.
      node: The other half's; made where it is not there.

    Guarantees:
      - The node's key is in one place at the end, and never in none.
      - Each file belongs to the owner of the folder that it is in, if root runs this.
      - What is copied is a P-384 key, read once from a file in ``folder`` itself: a
        link that the site's user left there leads root to nothing.

    Raises:
      ConfigError: The folder is no site, has joined nobody, or its key is in neither
        place, is a link or of another kind, or another one is in ``node``.
      DataError: A file cannot be written.
    """
    from septum_client import card, coordinator  # noqa: PLC0415 - imports torch; `up` does not

    is_site(folder)
    known = coordinator.joined(folder)
    if node.resolve() == folder.resolve() or (node / _SITE).exists():
        raise ConfigError(f"{node} is a site's own directory.", remedy="Name another folder.")
    node.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _key_in(folder)
    if key is not None:
        card.parse_node_key(key)
        if (node / NODE_KEY).exists() and (node / NODE_KEY).read_bytes() != key:
            raise ConfigError(
                f"{node} holds another {NODE_KEY}.",
                remedy="Name a new folder; or delete that key if no study names it.",
            )
        _give(node / NODE_KEY, key)
    elif not (node / NODE_KEY).exists():
        raise ConfigError(
            f"neither {folder} nor {node} holds the {NODE_KEY}.",
            remedy="Restore it from a backup.",
        )
    secret = secrets.token_urlsafe(48).encode()
    _give(node / SECRET, secret)
    _give(folder / SECRET, secret)
    (folder / NODE_KEY).unlink(missing_ok=True)
    coordinator.keep(node, known)
    for name in (coordinator.FILE, coordinator.REVOKED):
        _own(node / name)


def _key_in(folder: Path) -> bytes | None:
    """Return the bytes of the node key in ``folder``; None if there is none."""
    # O_NONBLOCK: a pipe of that name must not hold root up.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(folder / NODE_KEY, flags), "rb") as file:
            about = os.fstat(file.fileno())
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
                return file.read(_LONGEST_KEY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise _unusable(f"cannot be read ({error.strerror})") from None
    raise _unusable("is a link, or no file")


def _unusable(how: str) -> ConfigError:
    return ConfigError(
        f"the site's {NODE_KEY} {how}.", remedy="Put the file itself there, from a backup."
    )


def is_site(folder: Path) -> None:
    """Pass when ``folder`` is a site's directory.

    Raises:
      ConfigError: It is not.
    """
    if not (folder / _SITE).is_file():
        raise ConfigError(f"{folder} holds no site.", remedy="Run `septum site init` first.")


def check_half(half: Half, folder: Path) -> None:
    """Pass when ``folder`` is of ``half``, and holds nothing of the other.

    Looks into this folder and no other: what else the half's user could read is
    the matter of users and modes (``docs/deploy.md``).

    Raises:
      ConfigError: It is not, or does.
    """
    if half is Half.CLIENT:
        is_site(folder)
    wrong = NODE_KEY if half is Half.CLIENT else _SITE
    if (folder / wrong).exists():
        raise ConfigError(
            f"{folder} holds {wrong}, which is not for the half `{half.value}`.",
            remedy="Run `septum site split NODE`, and start the node with --site NODE.",
        )
    if not (folder / SECRET).is_file():
        raise ConfigError(
            f"{folder} holds no {SECRET}.", remedy="Run `septum site split NODE` first."
        )


def become(name: str) -> None:
    """Let this process, and all that it starts, be of the user ``name`` and no group but its own.

    Raises:
      ConfigError: There is no such user, it is root, or this process may not.
    """
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            f"there is no user {name!r}.", remedy="Make it, or name another."
        ) from None
    if user.pw_uid == 0:
        raise ConfigError(
            "--user names root, who may read everything.", remedy="Name a user of its own."
        )
    if os.geteuid() == user.pw_uid:
        return
    try:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except PermissionError:
        raise ConfigError(
            f"only root can become {name}.", remedy="Start it as root, or as that user."
        ) from None
    os.environ["HOME"] = user.pw_dir


def _give(path: Path, content: bytes) -> None:
    from septum_client.site import write_durably  # noqa: PLC0415 - imports torch; `up` does not

    write_durably(path, content)
    _own(path)


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        about = path.parent.stat()
        os.chown(path, about.st_uid, about.st_gid, follow_symlinks=False)
