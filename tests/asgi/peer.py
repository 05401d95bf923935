"""Websocket clients: on HTTP/1.1 a connection becomes one, on HTTP/2 a stream does (RFC 8441)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, Self

import h2.events
import wsproto
import wsproto.connection
import wsproto.events

from tests.asgi.probe import PATIENCE
from tests.asgi.wire import reset
from tests.asgi.wire_http2 import Http2Wire

TARGET = "/chat?room=1"
HEADERS = {"cookie": "session=s3cret"}


class Peer:
    """A websocket on a socket of its own; when it is made, its handshake is on the way."""

    def __init__(self, port: int, case: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        headers = [(b"x-request-id", case.encode()), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
        self.send(wsproto.events.Request(host="localhost", target=TARGET, extra_headers=headers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def accepted(self) -> None:
        """Waits until the app has accepted it."""
        self.until(wsproto.events.AcceptConnection)

    def rejected(self) -> int:
        """Waits until the app has turned it down, and says with which status."""
        return int(self.until(wsproto.events.RejectConnection).status_code)

    def says(self, text: str) -> None:
        """Sends a message."""
        self.send(wsproto.events.TextMessage(text))

    def hears(self) -> str:
        """The next message."""
        return str(self.until(wsproto.events.TextMessage).data)

    def leaves(self) -> None:
        """Says goodbye."""
        self.send(wsproto.events.CloseConnection(code=1000))

    def is_left(self) -> None:
        """Waits until the app has said goodbye."""
        self.until(wsproto.events.CloseConnection)

    def reset(self) -> None:
        """Closes the connection with an RST, without a goodbye."""
        reset(self.socket)

    def send(self, event: Any) -> None:
        """Puts one event on the wire."""
        self.socket.sendall(self._protocol.send(event))

    def until(self, kind: type[Any]) -> Any:
        """Reads on until an event of that kind has come, and returns it."""
        while True:
            for event in self._events():
                if isinstance(event, kind):
                    return event
            self._receive(kind)

    def _events(self) -> Iterator[Any]:
        return self._protocol.events()

    def _receive(self, kind: type[Any]) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended before a {kind.__name__}"
        self._protocol.receive_data(data)


class Http2Peer(Peer):
    """A websocket on a stream."""

    def __init__(self, port: int, case: str) -> None:
        self._wire = Http2Wire(port)
        self.socket = self._wire.socket
        self._frames = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
        head = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": "localhost"}
        head |= {":path": TARGET, "sec-websocket-version": "13", "x-request-id": case, **HEADERS}
        self._stream = self._wire.open_stream(list(head.items()), end=False)

    def accepted(self) -> None:
        """Waits until the app has accepted it: a websocket on a stream is accepted with a 200."""
        assert self._status() == 200

    def rejected(self) -> int:
        """Waits until the app has turned it down, and says with which status."""
        status = self._status()
        self._wire.event(h2.events.StreamEnded, stream=self._stream)  # who leaves before that has not heard it out
        return status

    def send(self, event: Any) -> None:
        """Puts one event on the wire."""
        self._wire.send(self._stream, self._frames.send(event))

    def _status(self) -> int:
        return int(dict(self._wire.event(h2.events.ResponseReceived, stream=self._stream).headers)[":status"])

    def _events(self) -> Iterator[Any]:
        return self._frames.events()

    def _receive(self, kind: type[Any]) -> None:
        event = self._wire.event(h2.events.DataReceived, h2.events.StreamEnded, stream=self._stream)
        assert isinstance(event, h2.events.DataReceived), f"the stream ended before a {kind.__name__}"
        self._frames.receive_data(event.data)
