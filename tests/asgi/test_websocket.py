"""Websockets: effects at the end of the connection, or of a scope on a long one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import wsproto
import wsproto.events
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

import sidefx
from sidefx import after
from tests.asgi.probe import PATIENCE, Gate, eventually
from tests.asgi.servers import Server


class Peer:
    """A websocket client on a socket of its own."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    def send(self, event: Any) -> None:
        """Puts one event on the wire."""
        self.socket.sendall(self._protocol.send(event))

    def until(self, kind: type[Any]) -> Any:
        """Reads on until an event of that kind has come, and returns it."""
        while True:
            for event in self._protocol.events():
                if isinstance(event, kind):
                    return event
            data = self.socket.recv(65536)
            assert data, f"the connection ended before a {kind.__name__}"
            self._protocol.receive_data(data)


@contextmanager
def dialled(server: Server, case: str) -> Iterator[Peer]:
    """A handshake on the way; whether it is accepted is the app's to say."""
    peer = Peer(server.port)
    try:
        headers = [(b"x-request-id", case.encode()), (b"cookie", b"session=s3cret")]
        peer.send(wsproto.events.Request(host="localhost", target="/chat?room=1", extra_headers=headers))
        yield peer
    finally:
        peer.socket.close()


@pytest.mark.contract("A13")
def test_effects_run_when_the_connection_ends(server: Server) -> None:
    """While messages go to and fro nothing starts; when the client has said goodbye, everything does, once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        server.probe.schedule()
        while True:
            try:
                await websocket.send_text(await websocket.receive_text() + "!")
            except WebSocketDisconnect:
                return

    case = server.play(app)
    with dialled(server, case) as peer:
        peer.until(wsproto.events.AcceptConnection)
        for _ in range(3):
            peer.send(wsproto.events.TextMessage("hello"))
            assert peer.until(wsproto.events.TextMessage).data == "hello!"
            server.run(server.fx.flush)
            assert server.probe.of(case) == []
        peer.send(wsproto.events.CloseConnection(code=1000))
        assert server.settled(case) == ["always", "success"]

    request = server.probe.seen[case]
    assert len(server.probe.events_of(case)) == 1
    assert (request.path, request.query["room"], request.cookies["session"]) == ("/chat", "1", "s3cret")
    assert (request.status, request.outcome) == (101, "complete")


@pytest.mark.contract("A13")
def test_a_scope_for_each_message(server: Server) -> None:
    """On a long connection `scope()` makes a unit of each message: its effects do not wait for the end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        after(server.probe.note, "end")
        async for text in websocket.iter_text():
            async with server.fx.scope(text):
                after(server.probe.note, text)
            await websocket.send_text("done")

    case = server.play(app)
    with dialled(server, case) as peer:
        peer.until(wsproto.events.AcceptConnection)
        for text in ("one", "two"):
            peer.send(wsproto.events.TextMessage(text))
            peer.until(wsproto.events.TextMessage)
            eventually(lambda text=text: text in server.probe.of(case))  # type: ignore[misc]
        assert server.probe.of(case) == ["one", "two"]
    assert server.settled(case) == ["one", "two", "end"]


@pytest.mark.contract("A13")
def test_a_denied_one_flushes_too(server: Server) -> None:
    """A handshake that the app turns down has its effects, and the status of the denial."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await receive()
        await send({"type": "websocket.close"})

    case = server.play(app)
    with dialled(server, case) as peer:
        assert peer.until(wsproto.events.RejectConnection).status_code == 403
    assert "always" in server.settled(case)
    assert len(server.probe.events_of(case)) == 1
    assert server.probe.seen[case].status == 403


@pytest.mark.contract("A13", "X02")
def test_a_denial_with_a_response(uvicorn: Server) -> None:
    """The denial's own response, where the server has that extension, gives the status."""
    server = uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "websocket.http.response" in scope["extensions"]
        server.probe.schedule()
        websocket = WebSocket(scope, receive, send)
        await websocket.receive()
        await websocket.send_denial_response(PlainTextResponse("no", 401))

    case = server.play(app)
    with dialled(server, case) as peer:
        assert peer.until(wsproto.events.RejectConnection).status_code == 401
    assert "always" in server.settled(case)
    assert server.probe.seen[case].status == 401
    assert server.probe.seen[case].outcome == "complete"


@pytest.mark.contract("A13", "S13")
def test_an_exception_is_an_error(server: Server) -> None:
    """On a websocket, success means that the app did not raise; the server gets what it raised."""
    error = LookupError("the app's own")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        server.probe.schedule()
        raise error

    case = server.play(app)
    with dialled(server, case) as peer:
        peer.until(wsproto.events.AcceptConnection)
        assert server.settled(case) == ["always", "error"]
    assert server.over(case).error is error
    assert server.probe.seen[case].outcome == "errored"


@pytest.mark.contract("A07", "A13")
def test_a_connection_that_is_reset(server: Server) -> None:
    """It cancels no effect, neither one of the connection nor one that is running already."""
    with Gate() as gate:

        async def running() -> None:
            await gate.passed()
            server.probe.note("slow")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            websocket = WebSocket(scope, receive, send)
            await websocket.accept()
            async with server.fx.scope():
                after(running)
            server.probe.schedule()
            with pytest.raises(WebSocketDisconnect):
                await websocket.receive_text()

        case = server.play(app)
        with dialled(server, case) as peer:
            peer.until(wsproto.events.AcceptConnection)
            gate.reached()
            peer.socket.close()
        server.over(case)
        gate.open()
    assert sorted(server.settled(case)) == ["always", "slow", "success"]


@pytest.mark.contract("A08", "S13")
def test_sending_to_a_peer_that_left(uvicorn: Server) -> None:
    """Uvicorn raises an `OSError` from `send` on a websocket whose peer has gone: it propagates, as a disconnect."""
    server = uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        server.probe.schedule()
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await send({"type": "websocket.send", "text": "to nobody"})

    case = server.play(app)
    with dialled(server, case) as peer:
        peer.until(wsproto.events.AcceptConnection)
        peer.send(wsproto.events.CloseConnection(code=1000))
        settled = server.settled(case)
    assert isinstance(server.over(case).error, OSError)
    assert settled == ["always", "success"]
    assert server.probe.seen[case].outcome == "disconnected"


@pytest.mark.contract("X03", "A13")
def test_an_effect_cannot_send_on_it(uvicorn: Server) -> None:
    """Neither can an effect say anything on a websocket that is over."""
    server = uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def meddle() -> None:
            with pytest.raises(sidefx.ResponseOverError):
                await send({"type": "websocket.send", "text": "more"})
            server.probe.note("refused")

        after(meddle)
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    case = server.play(app)
    with dialled(server, case) as peer:
        peer.until(wsproto.events.CloseConnection)
    assert server.settled(case) == ["refused"]
