"""When a response is over: once, and neither too early nor too late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h2.events
import pytest

import sidefx
from sidefx import after
from sidefx.asgi import Message
from tests.asgi.probe import Gate
from tests.asgi.servers import Server, body, staged, start
from tests.asgi.wire import Http2

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
def test_a_message_after_the_end_does_not_end_it_again(uvicorn: Server) -> None:
    """What an app says after its last message ends nothing a second time, whatever the server thinks of it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))
        with pytest.raises(RuntimeError):
            await send(body(b"more"))

    server = uvicorn
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
            wire.until(b"data: 1")
            gate.reached()
            _, bystander = server.get(case=server.play(_whole(server)))
            server.over(bystander)
            server.settled(bystander)  # the runtime is awake and has done all that was due

            assert server.probe.of(case) == []
            assert server.probe.events_of(case) == []

            gate.open()
            assert b"data: 2" in wire.until(b"0\r\n\r\n")
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


def _whole(server: Server) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))

    return app


@pytest.mark.contract("A03")
def test_pathsend_completes(tmp_path: Path) -> None:
    """A file that the server sends by itself (Granian's extension) ends the response."""
    path = tmp_path / "file"
    path.write_bytes(b"from the disk")
    with staged("granian") as server:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert "http.response.pathsend" in scope["extensions"]
            server.probe.schedule()
            await send(start(200, ("content-length", "13")))
            await send({"type": "http.response.pathsend", "path": str(path)})

        reply, case = server.get(case=server.play(app))

        assert reply.body == b"from the disk"
        assert server.settled(case) == ["always", "success"]
        assert server.probe.seen[case].outcome == "complete"


@pytest.mark.contract("A03")
@pytest.mark.parametrize("kind", ["hypercorn-asyncio", "hypercorn-trio"])
def test_trailers_come_first(kind: str) -> None:
    """With trailers announced, the response is over with the last of them, not with the body."""
    with staged(kind) as server, Gate() as after_body, Gate() as between:

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
        with _asked(server, case, ("te", "trailers")) as client:
            client.until(h2.events.DataReceived)
            for gate in (after_body, between):
                gate.reached()
                server.run(server.fx.flush)
                assert server.probe.of(case) == []
                gate.open()
            assert ("x-sum", "1") in client.until(h2.events.TrailersReceived).headers
            assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("A04")
@pytest.mark.parametrize("kind", ["hypercorn-asyncio", "hypercorn-trio"])
def test_hints_and_pushes_reach_the_client(kind: str) -> None:
    """Messages that are no part of the response pass through, before and after its start."""
    push = {"type": "http.response.push", "path": "/style.css", "headers": [(b"x-request-id", b"pushed")]}
    hint = {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]}
    with staged(kind) as server:
        server.stage.plays["pushed"] = _whole(server)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            server.probe.schedule()
            await send(hint)
            await send(start(200))
            await send(push)
            await send(body(b"ok"))

        case = server.play(app)
        with _asked(server, case) as client:
            hinted = client.until(h2.events.InformationalResponseReceived)
            pushed = client.until(h2.events.PushedStreamReceived)
            client.until(h2.events.StreamEnded)

        assert ("link", "</style.css>; rel=preload") in hinted.headers
        assert (":path", "/style.css") in pushed.headers
        assert server.settled(case) == ["always", "success"]
        assert server.probe.seen[case].status == 200
        sent = server.over(case).sent
        assert sent[0] is hint
        assert sent[2] is push


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


@pytest.mark.contract("X02", "S13")
@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([start(200, ("content-length", "2"), ("x-bad", "line\r\nbreak"))], None),
        ([start(200, ("content-length", "2")), body(b"too long")], 200),
    ],
    ids=["a bad header", "a body that is too long"],
)
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_message_that_the_server_refuses_has_not_passed(
    uvicorn: Server, messages: list[Message], status: int | None, swallowed: bool
) -> None:
    """What the server would not take is neither a status nor the end of a response."""
    server = uvicorn

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

    assert server.probe.seen[case].status == status
    assert server.probe.seen[case].outcome == ("unknown" if swallowed else "errored")


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


def _asked(server: Server, case: str, *headers: tuple[str, str]) -> Http2:
    """A connection on which that case has been asked for."""
    client = Http2(server.port)
    client.ask(case, *headers)
    return client
