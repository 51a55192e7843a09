"""What the demo's pods say to each other: bulk and short TCP connections, UDP small, large and fragmented.

demo_traffic.py serve | demo_traffic.py talk ADDRESS...; until SIGTERM. ICMP is ping's.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
from collections.abc import Sequence

BULK_PORT, WEB_PORT, ECHO_PORT = 5201, 8080, 7
BULK_WRITE_BYTES = 4 << 20
BULK_PAUSE_S = 0.1
WEB_PAUSE_S = 0.05
ECHO_PAUSE_S = 0.02
DATAGRAM_BYTES = (60, 700, 1400, 4000)
"""The last one is longer than the MTU: fragments."""


class Echo(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one
        """Keep what to answer through."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        self.transport.sendto(data, addr)


async def discard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The far end of the bulk."""
    while await reader.read(1 << 20):
        pass
    writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A page of some thousand bytes for a line."""
    await reader.readline()
    writer.write(bytes(random.randint(500, 20_000)))
    await writer.drain()
    writer.close()


async def serve() -> None:
    """All services on both families."""
    loop = asyncio.get_running_loop()
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 in a namespace of its own
        await asyncio.start_server(discard, anywhere, BULK_PORT, family=family)
        await asyncio.start_server(answer, anywhere, WEB_PORT, family=family)
    await loop.create_datagram_endpoint(Echo, ("::", ECHO_PORT), family=socket.AF_INET6)  # IPv4 comes mapped
    await asyncio.Event().wait()


async def bulk(address: str) -> None:
    """One long connection, some 40 MB/s, so that a small machine keeps room for the rest."""
    _, writer = await asyncio.open_connection(address, BULK_PORT)
    while True:
        writer.write(bytes(BULK_WRITE_BYTES))
        await writer.drain()
        await asyncio.sleep(BULK_PAUSE_S)


async def browse(address: str) -> None:
    """A connection for every request."""
    while True:
        reader, writer = await asyncio.open_connection(address, WEB_PORT)
        writer.write(b"GET /\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(WEB_PAUSE_S)


async def chatter(address: str) -> None:
    """Datagrams of all sizes; the answers are read by nobody."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(address, ECHO_PORT))
    while True:
        transport.sendto(bytes(random.choice(DATAGRAM_BYTES)))
        await asyncio.sleep(ECHO_PAUSE_S)


async def talk(addresses: Sequence[str]) -> None:
    """Everything to every address."""
    await asyncio.gather(*(kind(address) for address in addresses for kind in (bulk, browse, chatter)))


async def until_terminated(arguments: Sequence[str]) -> None:
    """Run the role that `arguments` name."""
    role = asyncio.ensure_future(serve() if arguments[0] == "serve" else talk(arguments[1:]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, role.cancel)
    await asyncio.wait([role])
    if not role.cancelled():
        role.result()


if __name__ == "__main__":
    asyncio.run(until_terminated(sys.argv[1:]))
