"""Clients that go away: nothing is cancelled, and nobody is told that they left when they did not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sidefx import SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Gate, Probe, eventually
from tests.asgi.servers import HTTP2, Server, body, lifespan, serving, staged, start, whole
from tests.asgi.wire_http2 import Http2Wire

CANCELLING: dict[str, dict[str, Any]] = {
    "uvicorn-h11": {"timeout_graceful_shutdown": 0},
    "uvicorn-httptools": {"timeout_graceful_shutdown": 0},
    "hypercorn-asyncio": {"graceful_timeout": 0.0},
    "hypercorn-trio": {"graceful_timeout": 0.0},
    "hypercorn-trio-http2": {"graceful_timeout": 0.0},
    "daphne": {"application_close_timeout": 0},
}
"""How the servers that cancel requests come to do it at once.

Granian never does: it leaves them to themselves. Hypercorn on asyncio breaks by itself when it cancels a stream of
an open HTTP/2 connection.
"""


async def _until_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.contract("A07", "S13")
def test_a_reset_in_mid_stream_cancels_nothing(server: Server) -> None:
    """The effects of a broken stream run to their end; a 200 whose client left is a success."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(_slow, gate, server.probe)
            server.probe.schedule()
            await send(start())
            await send(body(b"first", more_body=True))
            await _until_disconnect(receive)

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            wire.until(b"first")
            wire.reset()
        gate.reached()
        server.over(case)
        gate.open()
    assert sorted(server.settled(case)) == ["always", "slow", "success"]
    assert server.probe.seen[case].outcome == "disconnected"
    assert server.probe.seen[case].status == 200


async def _slow(gate: Gate, probe: Probe) -> None:
    await gate.passed()
    await anyio.lowlevel.checkpoint()
    probe.note("slow")


@pytest.mark.contract("A07")
def test_leaving_right_after_the_response_cancels_nothing(server: Server) -> None:
    """A client that has its response and goes cancels no effect that is running."""
    _leave_right_after_the_response(server, "reset")


@pytest.mark.contract("A07")
def test_a_half_close_right_after_the_response_cancels_nothing(http1: Server) -> None:
    """Neither does one that says it will send no more; on HTTP/2 it could not go on listening."""
    _leave_right_after_the_response(http1, "half_close")


@pytest.mark.contract("A07")
def test_a_stream_that_is_cancelled_on_a_connection_that_goes_on(http2: Server) -> None:
    """On HTTP/2 a client leaves a response without leaving its connection; that cancels nothing either."""
    server = http2
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(_slow, gate, server.probe)
            server.probe.schedule()
            await send(start())
            await send(body(b"first", more_body=True))
            await _until_disconnect(receive)

        case = server.play(app)
        with Http2Wire(server.port) as wire:
            wire.ask(case)
            wire.until(b"first")
            wire.leave()
            gate.reached()
            server.over(case)
            wire.ask(server.play(whole))
            assert wire.reply().body == b"ok"
            gate.open()
    assert sorted(server.settled(case)) == ["always", "slow", "success"]
    assert server.probe.seen[case].outcome == "disconnected"


def _leave_right_after_the_response(server: Server, leave: str) -> None:
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(_slow, gate, server.probe)
            after(gate.passed_blocking)
            server.probe.schedule()
            await send(start(200, ("content-length", "2")))
            await send(body(b"ok"))

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            assert wire.reply().body == b"ok"
            gate.reached()
            getattr(wire, leave)()
            _, later = server.get(case=server.play(app))  # the server has turned to others meanwhile
            server.over(later)
            gate.open()
    assert sorted(server.settled(case)) == ["always", "slow", "success"]
    assert server.probe.seen[case].outcome == "complete"
    assert server.fx.stats().callables.rejected == 0


@pytest.mark.contract("A07", "X02")
def test_who_was_seen_to_leave_stays_gone(server: Server) -> None:
    """An app that goes on to its last message, though it heard that the client left, has not been heard to the end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start())
        await send(body(b"first", more_body=True))
        await _until_disconnect(receive)
        await send(body(b"to nobody"))

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        wire.until(b"first")
        wire.leave()
        assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].outcome == "disconnected"


@pytest.mark.contract("S13")
def test_an_error_after_the_client_left_is_an_error(server: Server) -> None:
    """An exception of the app's own counts, whether or not anybody is there to see it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start())
        await send(body(b"first", more_body=True))
        await _until_disconnect(receive)
        raise LookupError("the app's own")

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        wire.until(b"first")
        wire.reset()
    assert server.settled(case) == ["always", "error"]
    assert server.probe.seen[case].outcome == "errored"


@pytest.mark.contract("S13", "X02")
def test_a_client_that_leaves_before_any_answer(server: Server) -> None:
    """Who leaves before there is a status leaves an error behind: no status below 400 was sent."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        gate.reached_by_app()
        await _until_disconnect(receive)

    with Gate() as gate:
        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            gate.reached()
            wire.reset()
    assert server.settled(case) == ["always", "error"]
    assert server.probe.seen[case].outcome == "disconnected"
    assert server.probe.seen[case].status is None


@pytest.mark.contract("A08", "S13")
def test_what_is_sent_to_nobody(server: Server) -> None:
    """Every server swallows what an app sends after its client left: the app hears of nothing, and is a success."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start())
        await send(body(b"first", more_body=True))
        await _until_disconnect(receive)
        for _ in range(3):
            await send(body(b"to nobody" * 10_000, more_body=True))

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        wire.until(b"first")
        wire.leave()
        assert server.settled(case) == ["always", "success"]
    assert server.over(case).error is None
    assert server.probe.seen[case].outcome == "disconnected"


@pytest.mark.contract("A07")
@pytest.mark.parametrize("kind", HTTP2)
def test_a_send_that_does_not_return_when_its_connection_has_gone(kind: str) -> None:
    """Hypercorn keeps an HTTP/2 app in `send` once the connection is gone; its effects run when the server ends."""
    with staged(kind, graceful_timeout=0.0) as server:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            server.probe.schedule()
            await send(start())
            await send(body(b"first", more_body=True))
            await _until_disconnect(receive)
            gate.reached_by_app()
            await send(body(b"to nobody"))

        gate = Gate()
        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            wire.until(b"first")
            wire.reset()
        gate.reached()
        server.get(case=server.play(whole))
        assert case not in server.witness.over
        server.stop()
        server.over(case)
    assert server.probe.of(case) == ["always", "success"]
    assert server.probe.seen[case].outcome == "disconnected"


@pytest.mark.contract("S02", "S13", "X02")
@pytest.mark.parametrize("kind", CANCELLING)
def test_a_request_that_its_server_cancels(kind: str) -> None:
    """Its effects run, before the app's shutdown where there is one; that it has no whole response is an error."""
    ended: list[BaseException] = []
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await lifespan(receive, send)
                return
            probe.schedule()
            await send(start())
            await send(body(b"first", more_body=True))
            try:
                await gate.passed()
            except BaseException as error:
                ended.append(error)
                raise

        with serving(kind, SideEffectsMiddleware(app, effects=effects), **CANCELLING[kind]) as server:
            server.fx, server.probe = effects, probe
            with server.wire() as wire:
                wire.ask(case := "cancelled")
                wire.until(b"first")
                gate.reached()
                if kind != "daphne":  # it cancels whom a client has left, and nobody at its end
                    server.stop()
                    server.over(case)
            server.over(case)
            eventually(lambda: len(probe.of(case)) == 2)
    assert len(ended) == 1
    assert not isinstance(ended[0], Exception)
    assert probe.of(case) == ["always", "error"]
    assert probe.seen[case].outcome == "unknown"


@pytest.mark.contract("A09")
def test_a_disconnect_after_completion_is_none(server: Server) -> None:
    """Every server says `http.disconnect` to an app that listens on after its response; nobody has left."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))
        await _until_disconnect(receive)

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        assert wire.reply().body == b"ok"
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].outcome == "complete"


@pytest.mark.contract("A09")
def test_no_receive_event_is_consumed(server: Server) -> None:
    """What the app does not ask for stays with the server; what it asks for is all there, in order."""

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, ("content-length", "0")))
        await send(body())

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        data, more = b"", True
        while more:
            message = await receive()
            data, more = data + message["body"], message["more_body"]
        await send(start(200, ("content-length", str(len(data)))))
        await send(body(data))

    sent = b"0123456789" * 20_000
    # Hypercorn breaks when a part of a body comes after the end of its response
    _, case = server.get(case=server.play(deaf), method="POST", body=b"" if server.kind in HTTP2 else b"unread")
    assert server.over(case).receives == 0

    reply, case = server.get(case=server.play(echo), method="POST", body=sent)
    assert reply.body == sent
    assert server.settled(case) == ["always", "success"]
