"""``septum site up``: the hospital's processes, run until somebody stops them; outbound only."""

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer

from septum.errors import ConfigError
from septum.processes import Service, Supervisor
from septum_client.coordinator import joined
from septum_client.halves import Half, become, check_half, is_site
from septum_client.node import SUPERNODE, client_services, free_port, node_services, services

_TURN_S: Final = 0.5
_LINE: Final = 4096

_CONNECTED: Final = ("SuperNode ID", "Connection successful")
_TROUBLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CERTIFICATE_VERIFY_FAILED": "The certificate at {address} is not signed by the CA that "
        "this site pinned, or has ended. Ask the coordinator whether it was renewed; trust no "
        "new one without its fingerprint.",
        "[code: 2004]": "The coordinator does not let this site in. After a crash that lasts up "
        "to 80 s; else ask it whether a signed study names this site's present card.",
        "[code: 2001]": "The coordinator does not know this site's node key. Send it the present "
        "card.",
        "Connection attempt failed": "No answer from {address}; trying again. Check the network, "
        "the proxy and the firewall.",
    }
)
"""What Flower writes into the SuperNode's log, and what to tell the hospital."""


def up(
    folder: Annotated[
        Path, typer.Option("--site", help="The site directory; the node's own for --only node.")
    ] = Path("site"),
    port: Annotated[
        int, typer.Option(help="Port of the loopback interface. [default: a free one]", min=0)
    ] = 0,
    only: Annotated[
        Half | None,
        typer.Option(help="Run one half: what connects, or what trains. See `septum site split`."),
    ] = None,
    link: Annotated[
        Path | None,
        typer.Option(help="The socket between the halves; the node makes it. Needed with --only."),
    ] = None,
    user: Annotated[
        str, typer.Option(help="Become this user first; started as root, and only then.")
    ] = "",
) -> None:
    """Connect to the coordinator and answer its rounds, until Ctrl-C.

    Opens no port to other machines. Nothing trains but studies approved here.

    [dim]Examples:[/dim]  septum site up --site /srv/septum

      septum site up --only node --site /srv/septum-node --link /run/septum/link

      septum site up --only client --site /srv/septum --link /run/septum/link
    """
    if user:
        become(user)
    with until_stopped() as wait:
        if only is None:
            serve(folder, notice=typer.echo, wait=wait, port=port)
        else:
            serve_half(only, folder, link=link, notice=typer.echo, wait=wait)


def serve(
    folder: Path,
    *,
    notice: Callable[[str], None],
    wait: Callable[[float], bool],
    port: int = 0,
) -> None:
    """Run the site's two processes until ``wait`` says that it is over.

    Args:
      folder: The site directory, which has joined a coordinator.
      notice: Told what happens, one sentence each.
      wait: Waits for so many seconds, or less; true when it is over.
      port: Of the loopback interface; 0 for a free one.

    Guarantees:
      - Every process has ended when this returns; where this process is killed,
        the system ends them (Linux).

    Raises:
      ConfigError: The folder is no site, or has joined nobody.
      EngineError: The site's processes run already.
    """
    is_site(folder)
    known = joined(folder)
    made = services(folder, address=known.address, ca=known.ca, port=port or free_port())
    begin = f"{_approved(folder)} connecting to {known.address}."
    _run(made, folder, begin, address=known.address, notice=notice, wait=wait)


def serve_half(
    half: Half,
    folder: Path,
    *,
    link: Path | None,
    notice: Callable[[str], None],
    wait: Callable[[float], bool],
) -> None:
    """Run one half of a site until ``wait`` says that it is over.

    Args:
      half: Which.
      folder: The site's directory for the half that trains, the node's own for the other.
      link: The socket between them.
      notice: As in :func:`serve`.
      wait: As in :func:`serve`.

    Guarantees:
      - As :func:`serve`; and the half that trains does not start in a folder that
        holds the node's key, nor the other in one that holds a site. No other
        folder is looked into: that neither can read the other's is the matter of
        two users and the modes of their folders (``docs/deploy.md``).

    Raises:
      ConfigError: The folder is not that half's, or ``link`` is missing.
      EngineError: This half runs already.
    """
    if link is None:
        raise ConfigError(
            f"--only {half.value} needs --link.",
            remedy="Name the socket between the halves, the same for both.",
        )
    check_half(half, folder)
    if half is Half.NODE:
        known = joined(folder)
        made = node_services(folder, address=known.address, ca=known.ca, link=link)
        begin, address = f"connecting to {known.address}.", known.address
    else:
        made = client_services(folder, link=link)
        begin, address = f"{_approved(folder)} waiting for rounds.", ""
    _run(made, folder, begin, address=address, notice=notice, wait=wait)


def _approved(folder: Path) -> str:
    approved = len(list((folder / "approved").glob("*.approval")))
    if approved:
        return f"{approved} studies are approved here;"
    return "No study is approved here yet (`septum site review` lists what was offered);"


def _run(
    made: Sequence[Service],
    folder: Path,
    begin: str,
    *,
    address: str,
    notice: Callable[[str], None],
    wait: Callable[[float], bool],
) -> None:
    news = _News(folder, address=address)
    with Supervisor(made, folder, notice=notice):
        notice(begin)
        while not wait(_TURN_S):
            for sentence in news.next():
                notice(sentence)


@contextmanager
def until_stopped() -> Iterator[Callable[[float], bool]]:
    """Give a ``wait`` that is over as soon as somebody asks this process to end."""
    over = threading.Event()
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: over.set()) for number in asked}
    try:
        yield over.wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _News:
    """What the site's own files tell since the last look, in sentences without a patient."""

    def __init__(self, folder: Path, *, address: str) -> None:
        self._address = address
        self._node = _Tail(folder / "logs" / f"{SUPERNODE}.log")
        self._refused = _Tail(folder / "private.log")
        self._outbox = folder / "outbox"
        self._released = self._count()
        self._last = ""

    def next(self) -> Iterator[str]:
        """Yield what is new."""
        for line in self._node.lines():
            said = self._of(line)
            if said and said != self._last:
                self._last = said
                yield said
        for line in self._refused.lines():
            if code := _code(line):
                yield f"Refused with {code}: private.log says why, docs/codes.md what to do."
        released = self._count()
        if released > self._released:
            self._released = released
            yield f"Released the update of a round, with noise; {released} in all."

    def _of(self, line: str) -> str:
        if any(mark in line for mark in _CONNECTED):
            return f"Connected to {self._address}."
        for mark, sentence in _TROUBLES.items():
            if mark in line:
                return sentence.format(address=self._address)
        return ""

    def _count(self) -> int:
        return len(list(self._outbox.glob("*.npy")))


class _Tail:
    """The lines that were added to a file since it was last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._size()

    def lines(self) -> list[str]:
        """Return the whole lines that are new; all of a file that was begun anew."""
        if self._size() < self._read:
            self._read = 0
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError:
            return []
        whole = content.rfind(b"\n") + 1
        self._read += whole
        return [line[:_LINE].decode(errors="replace") for line in content[:whole].splitlines()]

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def _code(line: str) -> str:
    # The line was cut; its first fields are the time and the code.
    found = re.search(r'"code": ("[A-Z]+_\d{3}")', line)
    return str(json.loads(found[1])) if found else ""
