"""With a journal: nothing of a response before what was scheduled ahead of it is on disk; and where the disk fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import pytest

from sidefx import JournalOptions, SideEffects, SinkOptions, after
from sidefx.entry import Commit
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import PATIENCE, Gate, Happened, Probe, eventually
from tests.asgi.silence import overheard
from tests.asgi.wire import Wire
from tests.disk import commits_of, failing, held, rows_of
from tests.wsgi.by_hand import Response, called, environ_of, served

HEADERS = [("Content-Type", "text/html"), ("X-Own", "yes")]

T = TypeVar("T")

Close: TypeAlias = Callable[[], object]


@contextmanager
def _journaled(folder: Path, probe: Probe, **journal: Any) -> Iterator[SideEffects]:
    """A runtime that runs, whose sink's events are journaled; the disk has all the time that a test may take."""
    options = JournalOptions(path=folder / "journal", **{"timeout": 2 * PATIENCE, **journal})
    effects = SideEffects({"sink": probe.sink}, {"sink": SinkOptions(delivery="journal")}, journal=options)
    effects.start_blocking()
    try:
        yield effects
    finally:
        effects.stop_blocking()


@pytest.fixture
def fx(probe: Probe, tmp_path: Path) -> Iterator[SideEffects]:
    """With a journal whose disk works until a test stands before it."""
    with _journaled(tmp_path, probe) as effects:
        yield effects


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """The server's thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="server") as threads:
        yield threads


class _Closing(list[bytes]):
    """A body that says when it is closed."""

    def __init__(self, body: Iterable[bytes], close: Close) -> None:
        super().__init__(body)
        self.close = close


def _list(start_response: StartResponse, close: Close) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return _Closing([b"one", b"two"], close)


def _generator(start_response: StartResponse, close: Close) -> Iterator[bytes]:
    try:
        start_response("200 OK", HEADERS)  # with the first step, which is late but allowed
        yield b"one"
        yield b"two"
    finally:
        close()


def _writing(start_response: StartResponse, close: Close) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)(b"one")
    return _Closing([b"two"], close)


def _empty(start_response: StartResponse, close: Close) -> Iterable[bytes]:
    start_response("204 No Content", [("X-Own", "yes")])
    return _Closing([], close)


Answer: TypeAlias = Callable[[StartResponse, Close], Iterable[bytes]]

FIRST: dict[Answer, bytes] = {_list: b"one", _generator: b"one", _writing: b"onetwo", _empty: b""}
"""What is out with the first step, what was written included."""

every_answer = pytest.mark.parametrize("answer", FIRST, ids=lambda each: each.__name__)


def _scheduling(answer: Answer, close: Close = bool) -> WSGIApplication:
    """Schedules an event, and then gives that answer; the validator looks at what the adapter does to it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        after(Happened(what="event"))
        return answer(start_response, close)

    return validator(app)


def _adapted(app: WSGIApplication, fx: SideEffects) -> WSGIApplication:
    """What a server is given; the validator looks at that as well."""
    return validator(SideEffectsMiddleware(app, effects=fx))


def _waiting(pool: ThreadPoolExecutor, call: Callable[..., T], *args: Any) -> Future[T]:
    """The server's thread calls this, has gone to wait for the disk in it, and has nothing to show by then."""
    waits = threading.Event()
    whole = Commit.finished_blocking

    def finished_blocking(self: Commit, timeout: float | None = None) -> bool:
        if threading.current_thread().name.startswith("server") and not self.done:
            waits.set()
        return whole(self, timeout)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Commit, "finished_blocking", finished_blocking)
        answer = pool.submit(call, *args)
        eventually(lambda: waits.is_set() or answer.done(), "the wait for the disk")
    assert waits.is_set(), f"it has not waited for the disk: {answer}"
    assert not answer.done()
    return answer


# --- the response waits ----------------------------------------------------------------------------------------------


@pytest.mark.contract("J01")
@every_answer
def test_nothing_leaves_before_the_events_are_on_disk(
    answer: Answer, fx: SideEffects, probe: Probe, pool: ThreadPoolExecutor
) -> None:
    """Neither status nor header nor body, however an app answers; all of it once the disk is let go."""
    response = Response()

    def first(disk: Gate) -> tuple[bytes, bool]:
        response.iterable = _adapted(_scheduling(answer), fx)(environ_of(), response.start_response)
        return next(iter(response.iterable), b""), disk.is_open

    with closing(response):
        with held(fx) as disk:
            chunk = _waiting(pool, first, disk)
            assert (response.status, response.headers, response.body) == ("", [], [])
            disk.open()
            data, was_open = chunk.result(PATIENCE)
        assert was_open
        assert b"".join([*response.body, data]) == FIRST[answer]
        assert response.status == ("204 No Content" if answer is _empty else "200 OK")
        assert rows_of(fx) == 1, "it is there, and is delivered only once the response is over"
    eventually(lambda: [event.what for event in probe.delivered] == ["event"], "the delivery")


@pytest.mark.contract("J01")
def test_a_server_that_answers_in_the_apps_place_waits_as_well(
    fx: SideEffects, probe: Probe, pool: ThreadPoolExecutor
) -> None:
    """The app raises, and its exception reaches the server once the event is on disk."""

    def breaks(start_response: StartResponse, close: Close) -> Iterable[bytes]:
        raise LookupError

    app = _adapted(_scheduling(breaks), fx)
    with held(fx) as disk:
        response = _waiting(pool, served, app)
        disk.open()
        assert response.result(PATIENCE).status == "500 LookupError"
    eventually(lambda: [event.what for event in probe.delivered] == ["event"], "the delivery")


@pytest.mark.contract("J01")
@pytest.mark.parametrize("then", [b"two", b""], ids=["the next chunk", "the end"])
def test_what_is_scheduled_in_mid_stream_holds_the_rest(
    then: bytes, fx: SideEffects, probe: Probe, pool: ThreadPoolExecutor
) -> None:
    """The chunk ahead of it is out, with the disk held; what comes after it waits, be it only the end."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        yield b"one"
        after(Happened(what="late"))
        if then:
            yield then

    with closing(called(_adapted(validator(app), fx))) as response:
        with held(fx) as disk:
            chunks = iter(response.iterable)
            assert next(chunks) == b"one"
            chunk = _waiting(pool, lambda: (next(chunks, b""), disk.is_open))
            assert commits_of(fx) == 0
            disk.open()
            assert chunk.result(PATIENCE) == (then, True)
        assert rows_of(fx) == 1
    eventually(lambda: [event.what for event in probe.delivered] == ["late"], "the delivery")


@pytest.mark.contract("J01")
def test_no_byte_is_on_the_wire_of_a_server(fx: SideEffects, pool: ThreadPoolExecutor) -> None:
    """The reference server has sent nothing while its thread waits, and then the whole of it."""
    app = _adapted(_scheduling(_list), fx)
    with make_server("127.0.0.1", 0, app) as server, Wire(server.server_port) as wire, held(fx) as disk:
        wire.ask("case")
        handled = _waiting(pool, server.handle_request)
        assert overheard(wire) == b""
        disk.open()
        handled.result(PATIENCE)
        reply = wire.reply()
    assert (reply.status, reply.headers["x-own"], reply.body) == (200, "yes", b"onetwo")


# --- where the disk fails --------------------------------------------------------------------------------------------


@pytest.mark.contract("J01", "J07")
@every_answer
def test_a_request_is_refused_whose_event_cannot_be_kept(answer: Answer, probe: Probe, tmp_path: Path) -> None:
    """503 and nothing of the app's own, which is closed; its event is void: neither delivered nor a dead letter."""
    closed: list[bool] = []
    with _journaled(tmp_path, probe, on_failure="refuse") as fx:
        with failing(fx):
            response = served(_adapted(_scheduling(answer, lambda: closed.append(True)), fx))
        assert response.status == "503 Service Unavailable"
        assert response.headers == [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "19")]
        assert response.body == [b"Service Unavailable"]
        assert closed == [True]
        _works(fx)
        fx.flush_blocking(PATIENCE)
        assert rows_of(fx) == 0
        stats = fx.stats()
        assert stats.journal is not None
        assert (stats.journal.refused, stats.journal.degraded) == (1, 0)
        assert (probe.delivered, list(fx.dead_letters), stats.dead_letters) == ([], [], {})


@pytest.mark.contract("J07")
@every_answer
def test_where_it_gives_way_the_response_is_the_apps_own(answer: Answer, probe: Probe, tmp_path: Path) -> None:
    """The event is delivered from memory, while the disk still fails, and counted."""
    plain = served(lambda environ, start_response: answer(start_response, bool))
    with _journaled(tmp_path, probe, on_failure="degrade") as fx:
        with failing(fx):
            response = served(_adapted(_scheduling(answer), fx))
            assert (response.status, response.headers, response.body) == (plain.status, plain.headers, plain.body)
            eventually(lambda: [event.what for event in probe.delivered] == ["event"], "the delivery from memory")
        _works(fx)
        stats = fx.stats()
        assert stats.journal is not None
        assert (stats.journal.degraded, stats.journal.refused, stats.dead_letters) == (1, 0, {})
        assert rows_of(fx) == 0


def _works(fx: SideEffects) -> None:
    """The journal has found out that its disk works again."""
    eventually(lambda: fx.stats().journal.state == "ok", "the disk")  # type: ignore[union-attr]
