"""Requests to a server, as fast as so many keep-alive connections take them, from one thread that does little else.

Standard library (asyncio protocols); uvloop where it is installed. It says how busy it was itself:
near 100 % of a core, it is this that was measured and not the server.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from dataclasses import dataclass, field
from typing import Any

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_OK = b"HTTP/1.1 200"


@dataclass(slots=True)
class Load:
    """One round: what came back."""

    seconds: float
    requests: int = 0
    first_bytes: list[float] = field(default_factory=list)
    """Seconds from each request to the first byte of its response."""
    busy: float = 0.0
    """The share of a core that this generator has used."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    """Asks again as soon as it has the whole response; all responses are of one length."""

    def __init__(self, load: Load, length: int, until: float) -> None:
        self._load = load
        self._length = length
        self._until = until
        self._missing = 0
        self._asked = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._missing = self._length
        self._asked = time.perf_counter()
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._missing == self._length:
            self._load.first_bytes.append(now - self._asked)
            assert data.startswith(_OK), data
        self._missing -= len(data)
        if self._missing == 0:
            if now < self._until:
                self._load.requests += 1
                self._ask()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)


async def drive(port: int, connections: int, seconds: float) -> Load:
    """One round of load on the server at that port of this machine.

    Raises:
        OSError: nobody listens there.
        AssertionError: a response was none of 200.
    """
    loop = asyncio.get_running_loop()
    length = await asyncio.to_thread(_length, port)
    load = Load(seconds)
    until, cpu = time.perf_counter() + seconds, time.process_time()
    opened = [
        await loop.create_connection(lambda: _Connection(load, length, until), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.closed for _, connection in opened))
    load.busy = (time.process_time() - cpu) / (time.perf_counter() - until + seconds)
    return load


def get(port: int, path: str) -> bytes:
    """The body of one response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _length(port: int) -> int:
    """Of a response to `REQUEST`, in bytes: its head and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.connect()
        connection.sock.sendall(REQUEST)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.sock.recv(65_536)
        head, _, _ = received.lower().partition(b"\r\n\r\n")
        body = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        return len(head) + 4 + int(body.partition(b":")[2])
    finally:
        connection.close()


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """What the generator runs on: `asyncio.Runner(loop_factory=loop_factory())`."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.Loop
