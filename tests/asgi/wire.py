"""An HTTP/1.1 client that holds the socket in its own hands: resets, half closes, streams read piece by piece."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Self, TypeAlias

from tests.asgi.probe import PATIENCE

Values: TypeAlias = str | tuple[str, ...]
"""Of a header: one, or several under its name."""


class Reply(NamedTuple):
    """A response off the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One TCP connection that speaks HTTP/1.1 by hand."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._received = bytearray()
        self._methods: deque[str] = deque()
        """Of the requests that have not been answered yet: a response to HEAD has no body."""
        self._pieces: Iterator[bytes] = iter(())
        self._body = bytearray()
        """What has been read of the present body and nobody has taken yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, case: str, path: str = "/", method: str = "GET", body: bytes = b"", **headers: Values) -> None:
        """Sends a request whose `X-Request-ID` is the case."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in header_lines(case, headers)]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._methods.append(method)
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers, their names in lower case, of the next response."""
        first, *lines = self._up_to(b"\r\n\r\n").decode("latin-1").strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        status, headers = int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
        bodiless = self._methods.popleft() == "HEAD" or status in {204, 304}
        self._pieces = iter(()) if bodiless else self._read(headers)
        self._body.clear()
        return status, headers

    def until(self, end: bytes) -> bytes:
        """What comes of a body up to and with these bytes; reads the head of the response first, if nobody has."""
        if self._methods:
            self.head()
        while end not in self._body:
            piece = next(self._pieces, b"")
            assert piece, f"the response ended before {end!r}, after {bytes(self._body)!r}"
            self._body += piece
        return _taken(self._body, self._body.index(end) + len(end))

    def rest(self) -> bytes:
        """What is left of the body."""
        for piece in self._pieces:
            self._body += piece
        return _taken(self._body, len(self._body))

    def reply(self) -> Reply:
        """A whole response."""
        return Reply(*self.head(), self.rest())

    def ends(self) -> None:
        """Waits until the server closes the connection, or resets it, and has said nothing more."""
        with suppress(ConnectionResetError):
            assert not self._received
            assert not self._receive(), "the connection goes on"

    def reset(self) -> None:
        """Closes with an RST instead of a FIN."""
        reset(self.socket)

    def leave(self) -> None:
        """Leaves the response that is being read; on HTTP/1.1 there is no way but to close the connection."""
        self.reset()

    def half_close(self) -> None:
        """Says that no more will be sent, and goes on listening."""
        self.socket.shutdown(socket.SHUT_WR)

    def _read(self, headers: dict[str, str]) -> Iterator[bytes]:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._up_to(b"\r\n"), 16):
                yield self._exactly(size)
                self._up_to(b"\r\n")
            self._up_to(b"\r\n")
        elif "content-length" in headers:
            left = int(headers["content-length"])
            while left:
                if not self._received:
                    self._more("the rest of a response")
                piece = _taken(self._received, min(left, len(self._received)))
                left -= len(piece)
                yield piece
        else:  # ends with the connection
            while self._received or self._receive():
                yield _taken(self._received, len(self._received))

    def _up_to(self, end: bytes) -> bytes:
        while end not in self._received:
            self._more(f"{end!r}, after {bytes(self._received)!r}")
        return _taken(self._received, self._received.index(end) + len(end))

    def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more("the rest of a response")
        return _taken(self._received, count)

    def _more(self, wanted: str) -> None:
        assert self._receive(), f"the connection ended before {wanted}"

    def _receive(self) -> bytes:
        data = self.socket.recv(262_144)
        self._received += data
        return data


def header_lines(case: str, headers: dict[str, Values]) -> Iterator[tuple[str, str]]:
    """The headers of a request, each with its value; one that is given several is there several times."""
    yield "x-request-id", case
    for name, values in headers.items():
        for value in (values,) if isinstance(values, str) else values:
            yield name.replace("_", "-").lower(), value


def reset(connection: socket.socket) -> None:
    """Closes it with an RST instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _taken(buffer: bytearray, count: int) -> bytes:
    taken = bytes(buffer[:count])
    del buffer[:count]
    return taken
