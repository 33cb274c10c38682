"""A door with one other side: passes connections on to one address, and to no other.

A hospital's container is on a network that leads nowhere but here, and this
process leads nowhere but to the coordinator (or to the hospital's own HTTPS
proxy). TLS stays between the hospital and the coordinator: nothing is read.

    door.py LISTEN_PORT HOST:PORT
"""

import asyncio
import contextlib
import ipaddress
import signal
import sys

PART_BYTES = 1 << 16
CONNECT_S = 15.0
MOST = 64


def target_of(text: str) -> tuple[str, int]:
    """Return the address behind the door; it is an IP address, so that no name is looked up."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    ipaddress.ip_address(host)
    return host, int(port)


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes one way until there are no more."""
    with contextlib.suppress(OSError):
        while part := await source.read(PART_BYTES):
            sink.write(part)
            await sink.drain()
        sink.write_eof()


async def serve(port: int, host: str, to: int) -> None:
    """Serve until SIGTERM."""
    places = asyncio.Semaphore(MOST)

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with places:
            try:
                behind = asyncio.open_connection(host, to)
                other_reader, other_writer = await asyncio.wait_for(behind, CONNECT_S)
            except (OSError, TimeoutError):
                writer.close()
                return
            try:
                await asyncio.gather(carry(reader, other_writer), carry(other_reader, writer))
            finally:
                writer.close()
                other_writer.close()

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # Every interface is right: the container has the hospital's inner network, and the way out.
    server = await asyncio.start_server(passed, "0.0.0.0", port)  # noqa: S104 - see above
    sys.stderr.write(f"listening on {server.sockets[0].getsockname()[1]}\n")
    sys.stderr.flush()
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *target_of(sys.argv[2])))
