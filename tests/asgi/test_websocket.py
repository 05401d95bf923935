"""Websockets: effects at the end of the connection, or of a scope on a long one."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

import sidefx
from sidefx import after
from tests.asgi.probe import Gate, eventually
from tests.asgi.servers import UVICORN, Server


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
    with server.dial(case) as peer:
        peer.accepted()
        for _ in range(3):
            peer.says("hello")
            assert peer.hears() == "hello!"
            server.run(server.fx.flush)
            assert server.probe.of(case) == []
        peer.leaves()
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
    with server.dial(case) as peer:
        peer.accepted()
        for text in ("one", "two"):
            peer.says(text)
            assert peer.hears() == "done"
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
    with server.dial(case) as peer:
        assert peer.rejected() == 403
    assert "always" in server.settled(case)
    assert len(server.probe.events_of(case)) == 1
    assert server.probe.seen[case].status == 403


@pytest.mark.contract("A13", "X02")
def test_a_denial_with_a_response(server: Server) -> None:
    """The denial's own response, where the server has that extension, gives the status; else it is a 403."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        websocket = WebSocket(scope, receive, send)
        await websocket.receive()
        if "websocket.http.response" in scope.get("extensions", {}):
            await websocket.send_denial_response(PlainTextResponse("no", 401))
        else:
            await websocket.close()

    case = server.play(app)
    with server.dial(case) as peer:
        status = peer.rejected()
    assert status == (403 if server.kind == "daphne" else 401)
    assert "always" in server.settled(case)
    assert server.probe.seen[case].status == status
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
    with server.dial(case) as peer:
        peer.accepted()
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
        with server.dial(case) as peer:
            peer.accepted()
            gate.reached()
            peer.reset()
        server.over(case)
        gate.open()
    assert sorted(server.settled(case)) == ["always", "slow", "success"]


@pytest.mark.contract("A08", "S13")
def test_sending_to_a_peer_that_left(server: Server) -> None:
    """Uvicorn raises an `OSError` from `send` on a websocket whose peer has gone: it propagates, as a disconnect.

    The others swallow what is sent to nobody, so that the app ends well.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        server.probe.schedule()
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await send({"type": "websocket.send", "text": "to nobody"})

    case = server.play(app)
    with server.dial(case) as peer:
        peer.accepted()
        peer.leaves()
        settled = server.settled(case)
    raises = server.kind in UVICORN
    assert isinstance(server.over(case).error, OSError) is raises
    assert settled == ["always", "success"]
    assert server.probe.seen[case].outcome == ("disconnected" if raises else "complete")


@pytest.mark.contract("X03", "A13")
def test_an_effect_cannot_send_on_it(server: Server) -> None:
    """Neither can an effect say anything on a websocket that is over."""

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
    with server.dial(case) as peer:
        peer.is_left()
    assert server.settled(case) == ["refused"]
