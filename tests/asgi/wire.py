"""Clients that hold the socket in their own hands: resets, half closes, pipelining, HTTP/2 frames."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple, Self

import h2.config
import h2.connection
import h2.events

from tests.asgi.probe import PATIENCE


class Reply(NamedTuple):
    """A response off the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One TCP connection that speaks HTTP/1.1 by hand."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, case: str, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> None:
        """Sends a request whose `X-Request-ID` is the case."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"X-Request-ID: {case}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def until(self, end: bytes) -> bytes:
        """What comes up to and with these bytes."""
        while end not in self._buffer:
            self._more(f"{end!r}, after {self._buffer!r}")
        got, _, self._buffer = self._buffer.partition(end)
        return got + end

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < count:
            self._more("the rest of a response")
        got, self._buffer = self._buffer[:count], self._buffer[count:]
        return got

    def _more(self, wanted: str) -> None:
        data = self.socket.recv(262_144)
        assert data, f"the connection ended before {wanted}"
        self._buffer += data

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers, their names in lower case, of a response."""
        first, *lines = self.until(b"\r\n\r\n").decode("latin-1").strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    def reply(self, method: str = "GET") -> Reply:
        """A whole response."""
        status, headers = self.head()
        if method == "HEAD" or status in {204, 304}:
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, self._chunks())
        if "content-length" in headers:
            return Reply(status, headers, self.exactly(int(headers["content-length"])))
        return Reply(status, headers, self.rest())

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.until(b"\r\n"), 16):
            body += self.exactly(size)
            self.until(b"\r\n")
        self.until(b"\r\n")
        return body

    def rest(self) -> bytes:
        """Everything until the server closes the connection, or resets it."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                got, self._buffer = self._buffer, b""
                return got
            self._buffer += data

    def reset(self) -> None:
        """Closes with an RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> None:
        """Says that no more will be sent, and goes on listening."""
        self.socket.shutdown(socket.SHUT_WR)


class Http2:
    """One HTTP/2 connection without TLS (prior knowledge) and one request on it; keeps every event."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.events: list[Any] = []
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, case: str, *headers: tuple[str, str]) -> None:
        """Sends a GET whose `X-Request-ID` is the case."""
        self._connection.initiate_connection()
        pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/")]
        self._connection.send_headers(1, [*pseudo, ("x-request-id", case), *headers], end_stream=True)
        self.socket.sendall(self._connection.data_to_send())

    def until(self, kind: type[Any]) -> Any:
        """Reads on until an event of that kind has come, and returns it."""
        while not (found := [event for event in self.events if isinstance(event, kind)]):
            data = self.socket.recv(65536)
            assert data, f"the connection ended before a {kind.__name__}"
            self.events += self._connection.receive_data(data)
            self.socket.sendall(self._connection.data_to_send())
        return found[0]
