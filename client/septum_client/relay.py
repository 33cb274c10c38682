"""Passes each connection on to one place and to no other; reads none of its bytes.

    python -I -m septum_client.relay LISTEN TARGET

Each of the two is an IP address with its port, or the absolute path of a socket
in the file system. Between the halves of a hospital that are on networks of
their own, the path is the only way; before a container, the target is the
coordinator's address (or that of the hospital's own HTTPS proxy), and TLS stays
between the hospital and the coordinator.
"""

import asyncio
import contextlib
import ipaddress
import signal
import sys
from pathlib import Path
from typing import Final

PART_BYTES: Final = 1 << 16
CONNECT_S: Final = 15.0
MOST: Final = 64
IDLE_S: Final = 600.0  # more than gRPC's keepalive in Flower, 210 s: no call under way is cut

Place = tuple[str, int] | Path
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def place_of(text: str) -> Place:
    """Return the place that ``text`` names; no name is ever looked up.

    >>> place_of("[::1]:80")
    ('::1', 80)

    Raises:
      ValueError: It is neither an IP address with a port nor an absolute path.
    """
    if text.startswith("/"):
        return Path(text)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    ipaddress.ip_address(host)
    return host, int(port)


async def serve(listen: Place, target: Place) -> None:
    """Pass connections on until SIGTERM or SIGINT.

    Guarantees:
      - At most :data:`MOST` connections at a time; more wait. One over which no
        byte went either way for :data:`IDLE_S` seconds gives its place up.
      - What the other side of a socket in the file system may do is decided by
        the folder that it is in: every user who reaches the folder may connect,
        and take every place (:func:`septum_client.node.node_services`).
    """
    places = asyncio.Semaphore(MOST)

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with places:
            try:
                other_reader, other_writer = await asyncio.wait_for(_reach(target), CONNECT_S)
            except (OSError, TimeoutError):
                writer.close()
                return
            try:
                async with asyncio.timeout(IDLE_S) as idle:
                    await asyncio.gather(
                        _carry(reader, other_writer, idle), _carry(other_reader, writer, idle)
                    )
            except TimeoutError:
                # What waits for a side that does not read would hold the connection open.
                writer.transport.abort()
                other_writer.transport.abort()
            finally:
                writer.close()
                other_writer.close()

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    if isinstance(listen, Path):
        server = await asyncio.start_unix_server(passed, listen)
        # Both halves may connect by a secret alone, and they are two users.
        listen.chmod(0o666)
        said: object = listen
    else:
        server = await asyncio.start_server(passed, *listen)
        said = server.sockets[0].getsockname()[1]
    sys.stderr.write(f"listening on {said}\n")
    sys.stderr.flush()
    await stopped.wait()
    server.close()


async def _reach(target: Place) -> _Streams:
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection(*target)


async def _carry(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, idle: asyncio.Timeout
) -> None:
    """Pass bytes one way until there are no more; each part is a sign of life for both ways."""
    with contextlib.suppress(OSError):
        while part := await source.read(PART_BYTES):
            idle.reschedule(asyncio.get_running_loop().time() + IDLE_S)
            sink.write(part)
            await sink.drain()
        sink.write_eof()


if __name__ == "__main__":
    asyncio.run(serve(place_of(sys.argv[1]), place_of(sys.argv[2])))
