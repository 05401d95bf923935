"""Clients that go away: nothing is cancelled, and nobody is told that they left when they did not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.probe import Gate, Probe
from tests.asgi.servers import Server, body, start


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
@pytest.mark.parametrize("leave", ["reset", "half_close"])
def test_leaving_right_after_the_response_cancels_nothing(server: Server, leave: str) -> None:
    """A client that has its response and goes cancels no effect that is running."""
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
        wire.reset()
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
    _, case = server.get(case=server.play(deaf), method="POST", body=b"unread")
    assert server.over(case).receives == 0

    reply, case = server.get(case=server.play(echo), method="POST", body=sent)
    assert reply.body == sent
    assert server.settled(case) == ["always", "success"]


# --- a server of ASGI 2.4, whose `send` raises ---------------------------------------------------------------------


class GoneError(OSError):
    """What a 2.4 server raises once the client has gone."""


async def _ask_2_4(app: ASGIApp, *, goes_after: int) -> tuple[Probe, BaseException | None]:
    """One request to the app on a server double, whose client goes after so many messages.

    A double, because no installed server raises from `send` over HTTP: uvicorn, Hypercorn and Granian
    swallow what is sent to nobody, though ASGI 2.4 lets them raise.
    """
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})
    sent: list[Any] = []
    raised: BaseException | None = None

    async def send(message: Any) -> None:
        if len(sent) >= goes_after:
            raise GoneError("the client has gone")
        sent.append(message)

    async def receive() -> Any:
        if sent:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def scheduling(scope: Any, receive: Any, send: Any) -> None:
        probe.schedule()
        await app(scope, receive, send)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/",
        "headers": [(b"x-request-id", b"the-case")],
        "query_string": b"",
    }
    async with effects:
        try:
            await SideEffectsMiddleware(scheduling, effects=effects)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - what the server would get
            raised = error
        await effects.flush(10)
    return probe, raised


async def _two_chunks(scope: Any, receive: Any, send: Any) -> None:
    await send(start())
    await send(body(b"one", more_body=True))
    await send(body(b"two"))


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
@pytest.mark.parametrize("goes_after", [0, 1, 2])
async def test_oserror_from_send_is_a_disconnect_and_propagates(goes_after: int) -> None:
    """The app gets the server's `OSError`, the server gets it back, and the outcome is `disconnected`."""
    probe, raised = await _ask_2_4(_two_chunks, goes_after=goes_after)

    assert isinstance(raised, GoneError)
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_what_a_framework_makes_of_the_oserror_is_its_consequence() -> None:
    """Starlette turns the `OSError` into `ClientDisconnect`; that too is the client's leaving, no error."""

    async def chunks() -> Any:
        for _ in range(3):
            yield b"chunk"

    probe, raised = await _ask_2_4(StreamingResponse(chunks()), goes_after=2)

    assert isinstance(raised, ClientDisconnect)
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_an_oserror_under_base_http_middleware() -> None:
    """Neither does the way through `BaseHTTPMiddleware` make an error of it."""

    async def chunks() -> Any:
        for _ in range(3):
            yield b"chunk"

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app = BaseHTTPMiddleware(StreamingResponse(chunks()), dispatch=pass_on)
    probe, raised = await _ask_2_4(app, goes_after=2)

    assert isinstance(raised, OSError | ClientDisconnect)
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_an_app_that_goes_on_after_the_oserror_and_lets_it_out_in_the_end() -> None:
    """The `OSError` stays the client's, where the app first tries its last message too."""
    swallowed: list[OSError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for message in (body(b"one", more_body=True), body(b"two")):
            try:
                await send(message)
            except OSError as error:
                swallowed.append(error)
        raise swallowed[0]

    probe, raised = await _ask_2_4(app, goes_after=1)

    assert raised is swallowed[0]
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_a_bug_after_the_oserror_is_still_a_bug() -> None:
    """Only the server's own `OSError` is excused: another one of the app's is an error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        raise FileNotFoundError("a file of the app's")

    probe, raised = await _ask_2_4(app, goes_after=9)

    assert isinstance(raised, FileNotFoundError)
    assert probe.of("the-case") == ["always", "error"]
    assert probe.seen["the-case"].outcome == "errored"


@pytest.mark.anyio
@pytest.mark.contract("A09")
async def test_an_oserror_after_the_last_message_is_no_disconnect() -> None:
    """A whole response stays whole, whatever comes of a message that follows it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _two_chunks(scope, receive, send)
        with pytest.raises(GoneError):
            await send(body(b"three"))

    probe, raised = await _ask_2_4(app, goes_after=3)

    assert raised is None
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "complete"
