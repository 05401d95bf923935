"""When a response is over: once, and neither too early nor too late."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import h2.events
import pytest
from starlette.responses import FileResponse

import sidefx
from sidefx import after
from sidefx.asgi import Message
from sidefx.request import RequestInfo
from tests.asgi.probe import Gate
from tests.asgi.servers import Server, body, start
from tests.asgi.wire_http2 import Http2Wire

BIG = 12_000_000
"""More than the sockets' buffers hold."""

WHOLE_RESPONSES: dict[str, tuple[str, list[Message]]] = {
    "more_body left out": ("GET", [start(200, ("content-length", "2")), body(b"ok")]),
    "more_body false": ("GET", [start(200, ("content-length", "2")), body(b"ok", more_body=False)]),
    "an empty message at the end": ("GET", [start(), body(b"ok", more_body=True), {"type": "http.response.body"}]),
    "HEAD": ("HEAD", [start(200, ("content-length", "2")), body(b"ok")]),
    "204": ("GET", [start(204), body()]),
    "304": ("GET", [start(304), body()]),
}


@pytest.mark.contract("A01")
@pytest.mark.parametrize("name", WHOLE_RESPONSES)
def test_a_whole_response_completes_exactly_once(server: Server, name: str) -> None:
    """However its end is written, a response completes once, and its effects run once."""
    method, messages = WHOLE_RESPONSES[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        for message in messages:
            await send(message)

    reply, case = server.get(case=server.play(app), method=method)

    assert reply.status == messages[0]["status"]
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].outcome == "complete"
    assert len(server.probe.events_of(case)) == 1


@pytest.mark.contract("A01")
def test_a_message_after_the_end_does_not_end_it_again(server: Server) -> None:
    """What an app says after its last message ends nothing a second time, whatever the server thinks of it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))
        with suppress(Exception):  # some servers refuse it, some take it and say nothing
            await send(body(b"more"))

    reply, case = server.get(case=server.play(app))

    assert reply.body == b"ok"
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].bytes_sent == 2


@pytest.mark.contract("A02", "S01")
@pytest.mark.parametrize("media_type", ["application/octet-stream", "text/event-stream"])
def test_a_stream_is_over_at_its_end(server: Server, media_type: str) -> None:
    """While a stream is held open, neither a callable nor a sink has been started."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            server.probe.schedule()
            await send(start(200, ("content-type", media_type)))
            await send(body(b"data: 1\n\n", more_body=True))
            await gate.passed()
            await send(body(b"data: 2\n\n", more_body=True))
            await send(body())

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            wire.until(b"data: 1\n\n")
            gate.reached()
            _, bystander = server.get(case=server.play(_whole(server)))
            server.over(bystander)
            server.settled(bystander)  # the runtime is awake and has done all that was due

            assert server.probe.of(case) == []
            assert server.probe.events_of(case) == []

            gate.open()
            assert wire.rest() == b"data: 2\n\n"
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].bytes_sent == len(b"data: 1\n\n" * 2)


@pytest.mark.contract("S01")
def test_nothing_starts_before_the_last_send_has_returned(server: Server) -> None:
    """A callable of either kind, a coroutine and a sink come after the return of the last `send`."""

    async def note() -> None:
        server.probe.note("async")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(note)
        after(note())
        after(server.probe.note, "sync")
        server.probe.schedule()
        await send(start(200, ("content-length", "4")))
        await send(body(b"ok", more_body=True))
        await send(body(b"ok"))
        delivered = [event for event in server.probe.delivered if event.request is sidefx.request()]
        server.probe.note(("sent", len(delivered)))

    _, case = server.get(case=server.play(app))

    assert server.settled(case)[0] == ("sent", 0)
    assert sorted(server.probe.of(case)[1:]) == ["always", "async", "async", "success", "sync"]
    assert len(server.probe.events_of(case)) == 1


@pytest.mark.contract("S01")
def test_nothing_starts_while_the_last_send_waits_for_the_client(server: Server) -> None:
    """Where a server makes the app wait for a slow reader, the effects wait as well."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200))
        await send(body(b"x" * BIG, more_body=True))
        gate.reached_by_app()
        await send(body(b"x" * BIG))
        server.probe.note("sent")

    gate = Gate()
    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        for _ in range(3):
            _, bystander = server.get(case=server.play(_whole(server)))
            server.settled(bystander)  # the runtime is awake and has done all that was due
        assert server.probe.of(case)[:1] in ([], ["sent"])
        assert len(wire.reply().body) == 2 * BIG
        gate.reached()
        assert server.settled(case) == ["sent", "always", "success"]


def _whole(server: Server) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))

    return app


@pytest.mark.contract("A03")
def test_a_file_completes(server: Server, tmp_path: Path) -> None:
    """A file ends the response, be it that the server sends it by itself (`pathsend`) or that the app does."""
    path = tmp_path / "file"
    path.write_bytes(b"from the disk")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await FileResponse(path)(scope, receive, send)

    reply, case = server.get(case=server.play(app))

    assert reply.body == b"from the disk"
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].outcome == "complete"
    sent = [message["type"] for message in server.over(case).sent]
    assert ("http.response.pathsend" in sent) is (server.kind == "granian")


@pytest.mark.contract("A03")
def test_trailers_come_first(http2: Server) -> None:
    """With trailers announced, the response is over with the last of them, not with the body.

    Of the servers, Hypercorn alone has trailers, and on HTTP/2 alone; the others would refuse them.
    """
    server = http2
    with Gate() as after_body, Gate() as between:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert "http.response.trailers" in scope["extensions"]
            server.probe.schedule()
            await send(start(200, trailers=True))
            await send(body(b"ok"))
            await after_body.passed()
            await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True})
            await between.passed()
            await send({"type": "http.response.trailers", "headers": [], "more_trailers": False})

        case = server.play(app)
        with Http2Wire(server.port) as wire:
            wire.ask(case, te="trailers")
            wire.until(b"ok")
            for gate in (after_body, between):
                gate.reached()
                server.run(server.fx.flush)
                assert server.probe.of(case) == []
                gate.open()
            assert ("x-sum", "1") in wire.event(h2.events.TrailersReceived).headers
            assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("A03", "A05")
def test_trailers_that_never_come(http2: Server) -> None:
    """A response whose announced trailers are missing is not whole."""
    server = http2

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, trailers=True))
        await send(body(b"ok"))

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case, te="trailers")
        wire.until(b"ok")
        assert server.settled(case) == ["always", "error"]
    assert server.probe.seen[case].outcome == "unknown"


@pytest.mark.contract("A04")
def test_hints_and_pushes_reach_the_client(http2: Server) -> None:
    """Messages that are no part of the response pass through, before and after its start."""
    server = http2
    push = {"type": "http.response.push", "path": "/style.css", "headers": [(b"x-request-id", b"pushed")]}
    hint = {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]}
    server.stage.plays["pushed"] = _whole(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(hint)
        await send(start(200))
        await send(push)
        await send(body(b"ok"))

    case = server.play(app)
    with Http2Wire(server.port) as wire:
        wire.ask(case)
        hinted = wire.event(h2.events.InformationalResponseReceived, stream=1)
        pushed = wire.event(h2.events.PushedStreamReceived, stream=1)
        wire.event(h2.events.StreamEnded, stream=1)

    assert ("link", "</style.css>; rel=preload") in hinted.headers
    assert (":path", "/style.css") in pushed.headers
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].status == 200
    sent = server.over(case).sent
    assert sent[0] is hint
    assert sent[2] is push


@pytest.mark.contract("A04")
def test_messages_of_an_unknown_kind_reach_the_server(server: Server) -> None:
    """What the adapter does not know passes through it as it is, before and after the start of the response."""
    unknown = {"type": "http.response.unheard_of", "this": object()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send_unknown(send)
        await send(start(200, ("content-length", "2")))
        await send_unknown(send)
        await send(body(b"ok"))

    async def send_unknown(send: Any) -> None:
        with suppress(Exception):  # every server refuses it in its own way, or does not look at it
            await send(unknown)

    reply, case = server.get(case=server.play(app))
    sent = server.over(case).sent

    assert reply.body == b"ok"
    assert [message is unknown for message in sent] == [True, False, True, False]
    assert server.settled(case) == ["always", "success"]
    assert server.probe.seen[case].outcome == "complete"


@pytest.mark.contract("A05", "S13")
@pytest.mark.parametrize(
    ("name", "messages"),
    [("nothing", []), ("the start alone", [start(200)]), ("half a body", [start(200), body(b"o", more_body=True)])],
)
def test_an_app_that_returns_too_early(server: Server, name: str, messages: list[Message]) -> None:
    """An app that returns without a whole response has one outcome, `unknown`, and that is an error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        for message in messages:
            await send(message)

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        assert server.settled(case) == ["always", "error"]

    assert len(server.probe.events_of(case)) == 1
    assert server.probe.seen[case].outcome == "unknown"
    assert server.probe.seen[case].status == (200 if messages else None)


@pytest.mark.contract("A05", "S02")
@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.start", "status": "200", "headers": []},
        {"type": "http.response.start", "status": "OK", "headers": []},
        {"type": "http.response.start", "headers": []},
        {"type": "http.response.body", "body": None},
        {},
        None,
    ],
    ids=["a status as text", "a status in words", "no status", "no body", "no type", "no message"],
)
def test_what_is_no_message_is_for_the_server_to_refuse(server: Server, message: Any) -> None:
    """It reaches the server as it is, some of which take some of it; the effects run once, whatever becomes of it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        with suppress(Exception):
            await send(message)

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        assert server.settled(case) == ["always", "error"]

    assert server.over(case).sent == [message]
    assert server.over(case).error is None


@pytest.mark.contract("X02", "S13")
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_start_that_the_server_refuses_has_not_passed(server: Server, swallowed: bool) -> None:
    """What the server would not take is no status, and starts no response."""
    request = _send_refused(server, [{**start(), "headers": [(b"x-bad", None)]}], swallowed)

    assert request.status is None
    assert request.outcome == ("unknown" if swallowed else "errored")


@pytest.mark.contract("X02", "S13")
@pytest.mark.parametrize("swallowed", [False, True])
def test_an_end_that_the_server_refuses_has_not_passed(uvicorn: Server, swallowed: bool) -> None:
    """Neither is what it would not take the end of one; uvicorn counts what was announced, others do not."""
    request = _send_refused(uvicorn, [start(200, ("content-length", "2")), body(b"too long")], swallowed)

    assert request.status == 200
    assert request.outcome == ("unknown" if swallowed else "errored")


def _send_refused(server: Server, messages: list[Message], swallowed: bool) -> RequestInfo:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        try:
            for message in messages:
                await send(message)
        except Exception:
            if not swallowed:
                raise

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        assert server.settled(case) == ["always", "error"]
    return server.probe.seen[case]


@pytest.mark.contract("A06")
def test_an_exception_passes_unchanged_and_the_500_does_not_wait(server: Server) -> None:
    """The server gets the very exception that the app raised, and answers while the effects still run."""
    error = ZeroDivisionError("the app's own")
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(gate.passed)
            after(gate.passed_blocking)
            server.probe.schedule()
            raise error

        reply, case = server.get(case=server.play(app))

        assert reply.status == 500
        gate.reached()
        assert server.over(case).error is error
        gate.open()
    assert server.settled(case) == ["always", "error"]
    assert server.probe.seen[case].outcome == "errored"
    assert server.probe.seen[case].status is None
