"""What a server has sent by now, off the raw socket: so that a test can say that it is nothing."""

from __future__ import annotations

import h2.events

from tests.asgi.peer import Http2Peer, Peer
from tests.asgi.probe import PATIENCE
from tests.asgi.wire import Wire
from tests.asgi.wire_http2 import Http2Wire

_SAYS_NOTHING = (h2.events.WindowUpdated, h2.events.PriorityUpdated)
"""Of a stream's events: those that are no part of a response."""


def overheard(client: Wire | Http2Wire | Peer) -> bytes:
    """All bytes of a response, or of a websocket, that have come and that nobody has read; they stay to be read."""
    if isinstance(client, Http2Wire):
        return _overheard_frames(client)
    if isinstance(client, Http2Peer):
        return _overheard_frames(client._wire)
    data = b""
    client.socket.setblocking(False)
    try:
        data = client.socket.recv(65_536)
        assert data, "the connection has ended"
    except BlockingIOError:
        pass
    finally:
        client.socket.settimeout(PATIENCE)
    if isinstance(client, Peer):
        assert not data, f"a websocket has heard {data!r}"
        return b""
    client._received += data
    return bytes(client._body + client._received)


def _overheard_frames(wire: Http2Wire) -> bytes:
    wire.socket.setblocking(False)
    try:
        while True:
            wire._receive("the end")
    except BlockingIOError:
        pass
    finally:
        wire.socket.settimeout(PATIENCE)
    events = [event for of_stream in wire._events.values() for event in of_stream]
    said = [event for event in events if not isinstance(event, _SAYS_NOTHING)]
    return b"".join(getattr(event, "data", None) or repr(event).encode() for event in said) + wire._body
