"""An HTTP/2 client without TLS (prior knowledge), with the methods of `Wire`, and with what HTTP/2 has beyond it."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

from tests.asgi.probe import PATIENCE
from tests.asgi.wire import Reply, Values, header_lines, reset


class Http2Wire:
    """One TCP connection that speaks HTTP/2, with a stream for each request.

    Responses are read in the order of the requests, as those of a `Wire` come. It has no `half_close`: a
    client that can send no more can grant no window, and acknowledge nothing.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._connection.initiate_connection()
        self._events: dict[int, deque[Any]] = {}
        """What has come on each stream and was not looked at yet."""
        self._asked: deque[int] = deque()
        self._stream = 0
        """The one whose response is being read."""
        self._body = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, case: str, path: str = "/", method: str = "GET", body: bytes = b"", **headers: Values) -> None:
        """Sends a request whose `X-Request-ID` is the case."""
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
        stream = self.open_stream([*pseudo, *header_lines(case, headers)], end=not body)
        self._asked.append(stream)
        if body:
            self.send(stream, body, end=True)

    def open_stream(self, headers: list[tuple[str, str]], *, end: bool) -> int:
        """Sends a request's head on a stream of its own, and says which."""
        stream: int = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, headers, end_stream=end)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends data, as fast as the server takes it."""
        while data:
            room = min(self._connection.local_flow_control_window(stream), self._connection.max_outbound_frame_size)
            if room:
                piece, data = data[:room], data[room:]
                self._connection.send_data(stream, piece, end_stream=end and not data)
                self._flush()
            else:
                self._receive("room for a request's body")

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the next response."""
        self._stream = self._asked.popleft()
        self._body.clear()
        headers = dict(self.event(h2.events.ResponseReceived).headers)
        return int(headers.pop(":status")), headers

    def until(self, end: bytes) -> bytes:
        """What comes of a body up to and with these bytes; reads the head of the response first, if nobody has."""
        if self._asked:
            self.head()
        while end not in self._body:
            piece = self._piece()
            assert piece is not None, f"the response ended before {end!r}, after {bytes(self._body)!r}"
            self._body += piece
        count = self._body.index(end) + len(end)
        taken = bytes(self._body[:count])
        del self._body[:count]
        return taken

    def rest(self) -> bytes:
        """What is left of the body."""
        while (piece := self._piece()) is not None:
            self._body += piece
        taken = bytes(self._body)
        self._body.clear()
        return taken

    def reply(self) -> Reply:
        """A whole response."""
        return Reply(*self.head(), self.rest())

    def reset(self) -> None:
        """Closes the connection with an RST instead of a FIN."""
        reset(self.socket)

    def leave(self) -> None:
        """Leaves the response that is being read: resets its stream, and keeps the connection."""
        if self._asked:
            self._stream = self._asked.popleft()
        self._connection.reset_stream(self._stream)
        self._flush()

    def event(self, *kinds: type[Any], stream: int | None = None) -> Any:
        """The next event of one of these kinds on a stream, by default the present one; drops what comes before."""
        waiting = self._events.setdefault(self._stream if stream is None else stream, deque())
        while True:
            while waiting:
                if isinstance(event := waiting.popleft(), kinds):
                    return event
            self._receive(" or ".join(kind.__name__ for kind in kinds))

    def _piece(self) -> bytes | None:
        event = self.event(h2.events.DataReceived, h2.events.StreamEnded, h2.events.StreamReset)
        assert not isinstance(event, h2.events.StreamReset), "the server has reset the stream"
        return event.data if isinstance(event, h2.events.DataReceived) else None

    def _receive(self, wanted: str) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended before {wanted}"
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                assert event.flow_controlled_length is not None
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            # a push counts to the stream that it was promised on
            stream = getattr(event, "parent_stream_id", None) or getattr(event, "stream_id", None)
            if stream:
                self._events.setdefault(stream, deque()).append(event)
        self._flush()

    def _flush(self) -> None:
        if data := self._connection.data_to_send():
            self.socket.sendall(data)
