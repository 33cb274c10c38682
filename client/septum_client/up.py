"""``septum site up``: the hospital's processes, run until somebody stops them; outbound only."""

import json
import re
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer

from septum.errors import ConfigError
from septum.processes import Supervisor
from septum_client.node import SUPERNODE, free_port, services

_TURN_S: Final = 0.5
_JOINED: Final = "coordinator.toml"
_LINE: Final = 4096

_CONNECTED: Final = ("SuperNode ID", "Connection successful")
_TROUBLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CERTIFICATE_VERIFY_FAILED": "The certificate at {address} is not signed by the CA that "
        "this site pinned, or has ended. Ask the coordinator whether it was renewed; trust no "
        "new one without its fingerprint.",
        "[code: 2004]": "The coordinator does not let this site in. After a crash that lasts up "
        "to 60 s; else ask it whether a signed study names this site's present card.",
        "[code: 2001]": "The coordinator does not know this site's node key. Send it the present "
        "card.",
        "Connection attempt failed": "No answer from {address}; trying again. Check the network, "
        "the proxy and the firewall.",
    }
)
"""What Flower writes into the SuperNode's log, and what to tell the hospital."""


def up(
    folder: Annotated[Path, typer.Option("--site", help="The site directory.")] = Path("site"),
    port: Annotated[
        int, typer.Option(help="Port of the loopback interface. [default: a free one]", min=0)
    ] = 0,
) -> None:
    """Connect to the coordinator and answer its rounds, until Ctrl-C.

    Opens no port to other machines. Nothing trains but studies approved here.

    [dim]Example:[/dim]  septum site up --site /srv/septum
    """
    with until_stopped() as wait:
        serve(folder, notice=typer.echo, wait=wait, port=port)


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
    address, ca = joined(folder)
    approved = len(list((folder / "approved").glob("*.approval")))
    news = _News(folder, address=address)
    made = services(folder, address=address, ca=ca, port=port or free_port())
    with Supervisor(made, folder, notice=notice):
        notice(
            f"{approved} studies are approved here; connecting to {address}."
            if approved
            else "No study is approved here yet; `septum site review` lists what was offered."
        )
        while not wait(_TURN_S):
            for sentence in news.next():
                notice(sentence)


def joined(folder: Path) -> tuple[str, str]:
    """Return the address of the coordinator that the site joined, and its CA (PEM).

    Raises:
      ConfigError: The folder is no site, has joined nobody, or the file is damaged.
    """
    if not (folder / "site.toml").is_file():
        raise ConfigError(f"{folder} holds no site.", remedy="Run `septum site init` first.")
    try:
        # Not through the model, which imports torch: this process stays for weeks.
        fields = tomllib.loads((folder / _JOINED).read_text(encoding="utf-8"))
        return str(fields["address"]), str(fields["ca"])
    except FileNotFoundError:
        raise ConfigError(
            "this site has joined no coordinator.", remedy="Run `septum site join INVITE` first."
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{_JOINED} cannot be used ({type(error).__name__}).",
            remedy="Join again with the coordinator's invitation.",
        ) from None


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
