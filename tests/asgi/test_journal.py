"""On every server: no byte of a response before what was scheduled ahead of it is on disk; no sink before its end."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import pytest
import wsproto.events
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from sidefx import after
from sidefx.asgi import Message
from tests.asgi.kept import Kept, Ordered, journaled, kept_of, others_are_answered, silent
from tests.asgi.probe import Gate, eventually
from tests.asgi.servers import SERVERS, UVICORN, Server, body, start, whole
from tests.asgi.silence import overheard
from tests.disk import commits_of, held, rows_of

Schedule: TypeAlias = Callable[[Server], Awaitable[None]]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every server, with a journal."""
    with journaled(request.param, tmp_path_factory.mktemp("journal")) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_on_disk(server: Server) -> None:
    """What tests before this one have journaled has been delivered, and its rows have gone."""
    eventually(lambda: rows_of(server.fx) == 0, "the end of all rows")


# --- the response waits ----------------------------------------------------------------------------------------------

RESPONSES: dict[str, tuple[str, list[Message | Exception], int]] = {
    "a whole one": ("GET", [start(200, ("content-length", "2")), body(b"ok")], 200),
    "HEAD": ("HEAD", [start(200, ("content-length", "2")), body(b"ok")], 200),
    "204": ("GET", [start(204), body()], 204),
    "a redirect": ("GET", [start(303, ("location", "/"), ("content-length", "0")), body()], 303),
    "a returned error": ("GET", [start(404, ("content-length", "2")), body(b"no")], 404),
    "a stream": ("GET", [start(200, ("content-type", "text/event-stream")), body(b"1", more_body=True), body()], 200),
    "an exception, for which the server answers": ("GET", [LookupError("the app's own")], 500),
    "none, for which the server answers": ("GET", [], 500),
}


@pytest.mark.contract("J01")
@pytest.mark.parametrize("name", RESPONSES)
def test_no_byte_leaves_before_the_events_are_on_disk(server: Server, name: str) -> None:
    """Neither a status nor a header, whatever the response is; other requests are answered meanwhile."""
    method, steps, status = RESPONSES[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="event"))
        for step in steps:
            if isinstance(step, Exception):
                raise step
            await send(step)
            server.probe.note("sent")

    case = server.play(app)
    with held(server.fx) as disk, server.wire() as wire:
        wire.ask(case, method=method)
        silent(server, wire, disk)
        assert server.probe.of(case) == []
        assert case not in server.witness.over
        disk.open()
        if steps or server.kind != "daphne":  # which says nothing then
            assert wire.reply().status == status
    server.settled(case)
    assert kept_of(server, case) == ["event"]


@pytest.mark.contract("J01", "A04")
@pytest.mark.parametrize(
    "hint", [{"type": "http.response.early_hint", "links": [b"</s.css>"]}, {"type": "http.response.debug", "info": {}}]
)
def test_what_comes_ahead_of_a_response_waits_as_well(server: Server, hint: Message) -> None:
    """An early hint tells the client that the app has done something; so does what a test client is told."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="event"))
        with suppress(Exception):  # most servers know of none
            await send(hint)
        server.probe.note("hinted")
        await whole(scope, receive, send)

    case = server.play(app)
    with held(server.fx) as disk, server.wire() as wire:
        wire.ask(case)
        silent(server, wire, disk)
        assert server.probe.of(case) == []
        disk.open()
        assert wire.reply().body == b"ok"
    server.settled(case)
    assert server.over(case).sent[0] is hint
    assert kept_of(server, case) == ["event"]


@pytest.mark.contract("J01", "J09")
def test_what_a_hint_could_not_know_waits_for_the_status(server: Server) -> None:
    """An event for errors alone is on disk before a 500, although a hint went ahead of that; one for success is not."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="error"), when="error")
        after(Kept(what="success"), when="success")
        with suppress(Exception):
            await send({"type": "http.response.early_hint", "links": [b"</s.css>"]})
        server.probe.note(f"{rows_of(server.fx)} on disk at the hint")
        hinted.reached_by_app()
        await hinted.passed()
        await send(start(500, ("content-length", "2")))
        await send(body(b"no"))

    case = server.play(app)
    with Gate() as hinted, server.wire() as wire:
        wire.ask(case)
        hinted.reached()
        assert server.probe.of(case) == ["1 on disk at the hint"]
        with held(server.fx) as disk:
            hinted.open()
            disk.reached()
            others_are_answered(server)
            assert b"500" not in overheard(wire)
            disk.open()
            assert wire.reply()[::2] == (500, b"no")
    server.settled(case)
    assert kept_of(server, case) == ["error"]


@pytest.mark.contract("J01", "A02")
@pytest.mark.parametrize("message", [body(b"two", more_body=True), body()], ids=["the next chunk", "the end"])
def test_what_is_scheduled_in_mid_stream_holds_the_rest(server: Server, message: Message) -> None:
    """What went ahead of it is out; what comes after it waits, be it only the end."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start(200))
            await send(body(b"one", more_body=True))
            await gate.passed()
            after(Kept(what="event"))
            await send(message)
            server.probe.note("sent")
            if message.get("more_body"):
                await send(body())

        case = server.play(app)
        with held(server.fx) as disk, server.wire() as wire:
            wire.ask(case)
            assert wire.until(b"one") == b"one"
            gate.open()
            silent(server, wire, disk)
            assert server.probe.of(case) == []
            disk.open()
            assert wire.rest() == message["body"]
    server.settled(case)
    assert kept_of(server, case) == ["event"]


# --- whatever is scheduled, and however ------------------------------------------------------------------------------


async def _at_once(server: Server) -> None:
    for number in range(20):
        after(Kept(what=f"{number}"))


async def _in_a_thread(server: Server) -> None:
    await anyio.to_thread.run_sync(after, Kept(what="event"))


async def _in_a_thread_without_a_context(server: Server) -> None:
    thread = threading.Thread(target=server.fx.bind(after), args=(Kept(what="event"),))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)


async def _in_a_task(server: Server) -> None:
    async def task() -> None:
        after(Kept(what="event"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task)


async def _fanned_out(server: Server) -> None:
    after(Ordered())


async def _in_a_scope(server: Server) -> None:
    async with server.fx.scope("job"):
        after(Kept(what="event"))
    server.probe.note("left")


SCHEDULES: dict[str, tuple[Schedule, list[str]]] = {
    "several at once": (_at_once, [f"{number}" for number in range(20)]),
    "from a worker thread": (_in_a_thread, ["event"]),
    "from a thread that was bound by hand": (_in_a_thread_without_a_context, ["event"]),
    "from a task": (_in_a_task, ["event"]),
    "by an event that stands for others": (_fanned_out, ["of an order", "of an order, too"]),
    "in a scope of its own": (_in_a_scope, ["event"]),
}


@pytest.mark.contract("J01")
@pytest.mark.parametrize("how", SCHEDULES)
def test_all_that_is_journaled_holds_the_response(server: Server, how: str) -> None:
    """However it comes to be scheduled; and what comes together costs one commit."""
    schedule, expected = SCHEDULES[how]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await schedule(server)
        await send(start(200, ("content-length", "2")))
        server.probe.note("sent")
        await send(body(b"ok"))

    case = server.play(app)
    with held(server.fx) as disk, server.wire() as wire:
        before = commits_of(server.fx)
        wire.ask(case)
        silent(server, wire, disk)
        assert server.probe.of(case) == []
        disk.open()
        assert wire.reply().body == b"ok"
        assert commits_of(server.fx) == before + 1
    server.settled(case)
    assert kept_of(server, case) == expected


@pytest.mark.contract("J01")
def test_a_cancelled_wait_lets_nothing_pass(server: Server) -> None:
    """An app that has lost its patience with one message, and sends another, has not sent it before the commit."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="event"))
        with anyio.move_on_after(0.01):
            await send(start(200, ("content-length", "2")))
        gave_up.reached_by_app()
        await send(start(503, ("content-length", "4")))
        await send(body(b"late"))

    case = server.play(app)
    with held(server.fx) as disk, Gate() as gave_up, server.wire() as wire:
        wire.ask(case)
        gave_up.reached()
        silent(server, wire, disk)
        disk.open()
        assert wire.reply()[::2] == (503, b"late")
    server.settled(case)
    assert kept_of(server, case) == ["event"]


# --- websockets ------------------------------------------------------------------------------------------------------

Talk: TypeAlias = Callable[[WebSocket], Awaitable[None]]


async def _says_the_next_thing(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    after(Kept(what="event"))
    await websocket.send_text("done")


async def _says_goodbye(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    after(Kept(what="event"))
    await websocket.close()


async def _is_left_by_its_app(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    after(Kept(what="event"))


JUST_LEAVE = (*UVICORN, "daphne")
"""Servers that say no goodbye in the app's place."""

TALKS: dict[str, tuple[Talk, type[Any]]] = {
    "its next message": (_says_the_next_thing, wsproto.events.TextMessage),
    "its goodbye": (_says_goodbye, wsproto.events.CloseConnection),
    "the server's, once the app has returned": (_is_left_by_its_app, wsproto.events.CloseConnection),
}


@pytest.mark.contract("J01", "A13")
@pytest.mark.parametrize("name", TALKS)
def test_what_a_websocket_says_next_waits(server: Server, name: str) -> None:
    """A message, the app's goodbye and the server's own."""
    talk, heard = TALKS[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await talk(WebSocket(scope, receive, send))

    case = server.play(app)
    with server.dial(case) as peer:
        peer.accepted()
        with held(server.fx) as disk:
            peer.says("hello")
            silent(server, peer, disk)
            disk.open()
            if talk is not _is_left_by_its_app or server.kind not in JUST_LEAVE:
                peer.until(heard)
    server.settled(case)
    assert kept_of(server, case) == ["event"]


async def _accepts(websocket: WebSocket) -> None:
    await websocket.accept()


async def _turns_down(websocket: WebSocket) -> None:
    await websocket.close()


async def _denies(websocket: WebSocket) -> None:
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(PlainTextResponse("no", 401))
    else:
        await websocket.close()


@pytest.mark.contract("J01", "A13")
@pytest.mark.parametrize("answer", [_accepts, _turns_down, _denies])
def test_the_answer_to_a_handshake_waits(server: Server, answer: Talk) -> None:
    """Be it accepted, closed, or denied with a response; a denial is no error, so what is for success is journaled."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="event"), when="success")
        websocket = WebSocket(scope, receive, send)
        await websocket.receive()
        await answer(websocket)

    case = server.play(app)
    with held(server.fx) as disk, server.dial(case) as peer:
        silent(server, peer, disk)
        disk.open()
        if answer is _accepts:
            peer.accepted()
        else:
            assert peer.rejected() in {401, 403}
    server.settled(case)
    assert kept_of(server, case) == ["event"]


@pytest.mark.contract("J01", "A13")
def test_another_task_of_a_websocket_waits_as_well(server: Server) -> None:
    """What one task sends while another one waits for the disk does not overtake the event."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()

        async def other() -> None:
            await websocket.receive_text()
            await websocket.send_text("by another")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            after(Kept(what="event"))
            await websocket.send_text("by the one")

    case = server.play(app)
    with held(server.fx) as disk, server.dial(case) as peer:
        peer.accepted()
        disk.reached()
        peer.says("hello")
        silent(server, peer, disk)
        disk.open()
        assert {peer.hears(), peer.hears()} == {"by the one", "by another"}
    server.settled(case)
    assert kept_of(server, case) == ["event"]


# --- and its sink comes after it -------------------------------------------------------------------------------------


@pytest.mark.contract("J01", "S01")
def test_a_sink_is_called_after_the_response_and_not_before(server: Server) -> None:
    """On disk it is long before: acknowledgement precedes the response, dispatch follows it."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(Kept(what="event"))
            await send(start(200))
            await send(body(b"one", more_body=True))
            await gate.passed()
            await send(body())
            server.probe.note(f"{len(kept_of(server, case))} delivered before the end")

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            wire.until(b"one")
            assert rows_of(server.fx) == 1
            others_are_answered(server)
            assert kept_of(server, case) == []
            gate.open()
            wire.rest()
    assert server.settled(case) == ["0 delivered before the end"]
    assert kept_of(server, case) == ["event"]
    eventually(lambda: rows_of(server.fx) == 0, "the end of its row")


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("J09", "S13")
@pytest.mark.parametrize(("status", "expected"), [(200, "success"), (303, "success"), (404, "error"), (500, "error")])
def test_what_does_not_hold_by_the_status_is_not_journaled(server: Server, status: int, expected: str) -> None:
    """The other one is on disk before the response."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(Kept(what="success"), when="success")
            after(Kept(what="error"), when="error")
            await send(start(status, ("location", "/")))
            await send(body(b"one", more_body=True))
            await gate.passed()
            await send(body())

        written = _written(server)
        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            wire.until(b"one")
            assert (rows_of(server.fx), _written(server)) == (1, written + 1)
            gate.open()
            wire.rest()
    server.settled(case)
    assert kept_of(server, case) == [expected]
    assert _written(server) == written + 1


@pytest.mark.contract("J09", "S13")
def test_a_success_that_turns_out_to_be_none_is_void(server: Server) -> None:
    """An app that raises in mid-stream voids what was journaled with its 200, and has what is for errors."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(Kept(what="success"), when="success")
            after(Kept(what="error"), when="error")
            await send(start(200))
            await send(body(b"one", more_body=True))
            await gate.passed()
            raise LookupError

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            wire.until(b"one")
            assert rows_of(server.fx) == 1
            gate.open()
            server.settled(case)
    assert kept_of(server, case) == ["error"]
    eventually(lambda: rows_of(server.fx) == 0, "the end of both rows")


def _written(server: Server) -> int:
    journal = server.fx.stats().journal
    assert journal is not None
    return journal.committed


@pytest.mark.contract("J01", "X02", "X04")
def test_what_is_journaled_of_the_request(server: Server) -> None:
    """Its event has the status that starts the response, also one that comes in mid-stream; and no secret."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start(202))
            await send(body(b"one", more_body=True))
            after(Kept(what="event"))
            await send(body(b"two", more_body=True))
            await gate.passed()
            await send(body())

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case, "/orders?token=s3cret", cookie="session=s3cret")
            wire.until(b"two")
            (row,) = _stored(server, case)
            gate.open()
            wire.rest()
    request = Kept.model_validate_json(row).request
    assert request is not None
    assert (request.method, request.path, request.request_id, request.status) == ("GET", "/orders", case, 202)
    assert b"s3cret" not in row


def _stored(server: Server, case: str) -> list[bytes]:
    journal: Any = server.fx.engine.journal
    segment = journal._writer.own
    looked = journal._writer.call(lambda: segment._connection.execute("SELECT json FROM event").fetchall())
    assert looked.finished_blocking(10)
    return [row for (row,) in looked.result if case.encode() in row]
