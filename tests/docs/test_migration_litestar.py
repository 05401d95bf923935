"""From Litestar: what each sentence of the page says, shown on both sides.

Longer than other files: it is one section of the page, and each of its sentences needs an app for either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Annotated, Any

import anyio
import litestar.concurrency
import pytest
from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency, Provide
from litestar.enums import RequestEncodingType
from litestar.events import listener
from litestar.exceptions import LitestarException, NotFoundException
from litestar.params import Body
from litestar.testing import TestClient

import sidefx
from sidefx import Event, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Gate, eventually
from tests.asgi.servers import Stage, serving
from tests.docs.sides import KIND, Side, with_sinks

variable: ContextVar[str] = ContextVar("variable", default="as it was")


class Bug(Exception):
    pass


class Placed(Event, kind="migration_litestar_test.placed"):
    number: int


async def fail(*_: Any) -> None:
    """A hook, a task, a listener or an effect that raises."""
    raise Bug


async def ok() -> Response[str]:
    """An endpoint that does nothing else."""
    return Response("ok")


def app_of(endpoint: Any, *, method: Any = get, background: Any = None, **options: Any) -> Any:
    """A Litestar app with that one endpoint; it leaves logging as it is."""
    return Litestar([method("/", background=background)(endpoint)], logging_config=None, **options)


# --- hooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Bug, NotFoundException], ids=["a bug", "an HTTP exception"])
def test_a_handler_that_raises(there: Side, here: Side, error: Any) -> None:
    """A handler that raises has its effects."""
    ran: list[str] = []

    async def hook(request: Request[Any, Any, Any]) -> None:
        ran.append("hook")

    async def note(what: str) -> None:
        ran.append(what)

    async def endpoint() -> Response[str]:
        raise error

    there.get(app_of(endpoint, after_response=hook, background=BackgroundTask(note, "task")))
    assert ran == []

    async def schedule(request: Request[Any, Any, Any]) -> None:
        after(note, "scheduled before the handler")
        after(note, "success", when="success")

    async def endpoint_now() -> Response[str]:
        after(note, "effect")
        raise error

    here.get(app_of(endpoint_now, before_request=schedule))
    assert ran == ["scheduled before the handler", "effect"]


def test_the_response_is_known(there: Side, here: Side) -> None:
    """An effect knows the response."""
    seen: list[Any] = []

    async def hook(request: Request[Any, Any, Any]) -> None:
        seen.append((request.method, request.url.path))

    async def endpoint() -> Response[str]:
        return Response("gone", status_code=410)

    there.get(app_of(endpoint, after_response=hook))
    assert seen == [("GET", "/")]

    def effect() -> None:
        request = sidefx.request()
        assert request is not None
        seen.append((request.method, request.route, request.status, request.bytes_sent))

    async def endpoint_now() -> Response[str]:
        after(effect)
        return Response("gone", status_code=410)

    here.get(app_of(endpoint_now))
    assert seen[1:] == [("GET", "/", 410, 4)]


def test_the_request_ends_with_the_response(there: Side, here: Side) -> None:
    """The request ends with the response."""
    for options in ("after_response", "background"):
        with Gate() as gate:

            async def held(*_: Any) -> None:
                await gate.passed()

            app = app_of(ok, **{options: held if options == "after_response" else BackgroundTask(held)})
            with there.server.wire() as wire:
                case = there.server.play(app)
                wire.ask(case)
                assert wire.reply().status == 200
                gate.reached()
                assert case not in there.server.witness.over
                wire.ask(there.server.play(app_of(ok)))
                assert wire.reply().status == 200, "the connection is free, there too"
    with Gate() as gate:

        async def endpoint() -> Response[str]:
            after(gate.passed)
            return Response("ok")

        case = here.server.play(app_of(endpoint))
        here.server.get(case=case)
        gate.reached()
        assert here.server.over(case), "while the effect still runs"


# --- background tasks -----------------------------------------------------------------------------------------------


def test_one_that_fails(there: Side, here: Side, caplog: pytest.LogCaptureFixture) -> None:
    """One that fails stops no other, and is no error of the server's."""
    ran: list[str] = []

    async def note(what: str) -> None:
        ran.append(what)

    tasks = [BackgroundTask(note, "first"), BackgroundTask(fail), BackgroundTask(note, "last")]
    error = there.error(app_of(ok, background=BackgroundTasks(tasks)))
    assert isinstance(error, LitestarException)
    assert isinstance(error.__cause__, Bug)
    assert ran == ["first"]
    assert isinstance(there.error(app_of(ok, after_response=fail)), LitestarException)

    async def endpoint() -> Response[str]:
        after(note, "first")
        after(fail)
        after(note, "last")
        return Response("ok")

    ran.clear()
    caplog.clear()
    assert here.error(app_of(endpoint)) is None
    assert ran == ["first", "last"]
    assert "sidefx" in {record.name for record in caplog.records}


def test_a_task_group(there: Side, here: Side) -> None:
    """One that fails stops no other, and is no error of the server's: there, a task group cancels the others."""
    ran: list[str] = []

    async def slow() -> None:
        await anyio.sleep(0.01)
        ran.append("slow")

    group = BackgroundTasks([BackgroundTask(slow), BackgroundTask(fail)], run_in_task_group=True)
    there.error(app_of(ok, background=group))
    assert ran == []

    async def endpoint() -> Response[str]:
        after(slow)
        after(fail)
        return Response("ok")

    here.get(app_of(endpoint))
    assert ran == ["slow"]


def test_at_the_same_time(there: Side, here: Side) -> None:
    """Effects run at the same time."""
    ran: list[str] = []

    async def first() -> None:
        ran.append("first starts")
        await anyio.sleep(0.01)
        ran.append("first ends")

    async def second() -> None:
        ran.append("second")

    there.get(app_of(ok, background=BackgroundTasks([BackgroundTask(first), BackgroundTask(second)])))
    assert ran == ["first starts", "first ends", "second"]

    async def endpoint() -> Response[str]:
        after(first)
        after(second)
        return Response("ok")

    ran.clear()
    here.get(app_of(endpoint))
    assert ran == ["first starts", "second", "first ends"]


def test_dependencies(there: Side, here: Side) -> None:
    """A dependency that is a generator is closed before effects start, as it was there."""
    seen: list[str] = []

    async def note(what: str) -> None:
        seen.append(what)

    async def session() -> Any:
        yield "a session"
        seen.append("closed")

    async def endpoint(session: NamedDependency[str]) -> Response[str]:
        return Response("ok", background=BackgroundTask(note, "task"))

    async def endpoint_now(session: NamedDependency[str]) -> Response[str]:
        after(note, "effect")
        return Response("ok")

    for side, handler in ((there, endpoint), (here, endpoint_now)):
        side.get(app_of(handler, dependencies={"session": Provide(session)}))
    assert seen == ["closed", "task", "closed", "effect"]


def test_an_uploaded_file(there: Side, here: Side) -> None:
    """An uploaded file is closed before effects start."""
    seen: list[Any] = []
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhello\r\n--x--\r\n'
    Upload = Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)]  # noqa: N806 - a type

    async def read(file: UploadFile) -> None:
        try:
            seen.append(await file.read())
        except ValueError as error:
            seen.append(str(error))

    async def endpoint(data: Any) -> Response[str]:
        return Response("ok", background=BackgroundTask(read, data))

    async def endpoint_now(data: Any) -> Response[str]:
        after(read, data)
        return Response("ok")

    for side, handler in ((there, endpoint), (here, endpoint_now)):
        handler.__annotations__["data"] = Upload
        app = app_of(handler, method=post)
        side.get(app, method="POST", body=form, Content_Type="multipart/form-data; boundary=x")
    assert seen == [b"hello", "I/O operation on closed file."]


@pytest.fixture
def one_thread() -> Iterator[ThreadPoolExecutor]:
    """Litestar has one thread for synchronous code."""
    with ThreadPoolExecutor(1) as executor:
        litestar.concurrency.set_asyncio_executor(executor)
        yield executor
        litestar.concurrency.set_asyncio_executor(None)


def test_threads(one_thread: ThreadPoolExecutor, here: Side) -> None:
    """Synchronous effects have threads of their own."""
    called: list[str] = []

    def endpoint() -> Response[str]:
        called.append("endpoint")
        return Response("ok")

    sync_app: Any = Litestar([get("/", sync_to_thread=True)(endpoint)], logging_config=None)
    stage = Stage()
    with serving(KIND, stage) as server, Gate() as gate, server.wire() as wire:
        server.stage = stage
        server.get(case=server.play(app_of(ok, background=BackgroundTask(gate.passed_blocking))))
        gate.reached()
        wire.ask(server.play(sync_app))
        eventually(one_thread._work_queue.qsize)
        assert called == []
        gate.open()
        assert wire.reply().status == 200
    with Gate() as gate:

        async def endpoint_now() -> Response[str]:
            after(gate.passed_blocking)
            return Response("ok")

        here.server.get(case=here.server.play(app_of(endpoint_now)))
        gate.reached()
        assert here.server.get(case=here.server.play(sync_app))[0].status == 200
        assert here.server.fx.stats().callables.in_flight == 1, "while the effect still runs"


# --- events ---------------------------------------------------------------------------------------------------------


def test_an_event_waits_for_the_response() -> None:
    """An event waits for the response."""
    seen: list[str] = []
    was_heard = anyio.Event()

    @listener("placed")
    async def heard(number: int) -> None:
        seen.append("listener")
        was_heard.set()

    async def endpoint(request: Request[Any, Any, Any]) -> Response[str]:
        request.app.emit("placed", number=1)
        await was_heard.wait()
        seen.append("handler ends")
        raise Bug

    with TestClient(app_of(endpoint, listeners=[heard]), raise_server_exceptions=False) as client:
        client.get("/")
    assert seen == ["listener", "handler ends"]
    seen.clear()

    async def sink(event: Placed) -> None:
        seen.append(f"sink {event.number}")

    async def endpoint_now() -> Response[str]:
        after(Placed(number=1))
        after(Placed(number=2), when="success")
        await anyio.sleep(0.05)
        seen.append("handler ends")
        raise Bug

    with with_sinks(sink) as here:
        here.get(app_of(endpoint_now))
    assert seen == ["handler ends", "sink 1"]


def test_an_event_that_nobody_takes() -> None:
    """An event that nobody takes is no error of the request."""

    async def endpoint(request: Request[Any, Any, Any]) -> Response[str]:
        request.app.emit("placed", number=1)
        return Response("ok")

    async def endpoint_now() -> Response[str]:
        after(Placed(number=1))
        return Response("ok")

    with TestClient(app_of(endpoint), raise_server_exceptions=False) as client:
        assert client.get("/").status_code == 500
    with with_sinks() as here:
        assert here.get(app_of(endpoint_now)).status == 200
        assert here.server.fx.stats().unrouted == {Placed.kind: 1}


def test_a_listener_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that fails is called again."""
    calls: list[str] = []

    @listener("placed")
    async def heard(number: int) -> None:
        calls.append("listener")
        raise Bug

    @listener("placed")
    async def also_heard(number: int) -> None:
        calls.append("the other")

    async def endpoint(request: Request[Any, Any, Any]) -> Response[str]:
        request.app.emit("placed", number=1)
        return Response("ok")

    with TestClient(app_of(endpoint, listeners=[heard, also_heard])) as client:
        assert client.get("/").status_code == 200
    assert sorted(calls) == ["listener", "the other"]
    calls.clear()
    assert "litestar.events.listener" in {record.name for record in caplog.records}

    async def sink(event: Placed) -> None:
        calls.append("sink")
        if len(calls) < 2:
            raise Bug

    async def endpoint_now() -> Response[str]:
        after(Placed(number=1))
        return Response("ok")

    with with_sinks(sink) as here:
        here.get(app_of(endpoint_now))
        assert here.server.fx.stats().sinks["sink"].delivered == 1
    assert calls == ["sink", "sink"]


def test_context_variables() -> None:
    """A sink does not see the request's context variables, as a listener did not."""
    seen: list[str] = []

    @listener("placed")
    async def heard(number: int) -> None:
        seen.append(variable.get())

    async def endpoint(request: Request[Any, Any, Any]) -> Response[str]:
        variable.set("the request's")
        request.app.emit("placed", number=1)
        return Response("ok")

    with TestClient(app_of(endpoint, listeners=[heard])) as client:
        client.get("/")

    async def sink(event: Placed) -> None:
        seen.append(variable.get())

    async def endpoint_now() -> Response[str]:
        variable.set("the request's")
        after(Placed(number=1))
        return Response("ok")

    with with_sinks(sink) as here:
        here.get(app_of(endpoint_now))
    assert seen == ["as it was", "as it was"]


def test_shutdown() -> None:
    """Shutdown waits for effects for `drain_timeout` seconds, before the app's own shutdown."""
    seen: list[str] = []

    async def slow() -> None:
        await anyio.sleep(0.05)
        seen.append("effect")

    async def on_shutdown() -> None:
        seen.append("on_shutdown")

    async def endpoint() -> Response[str]:
        after(slow)
        return Response("ok")

    app: Any = SideEffectsMiddleware(app_of(endpoint, on_shutdown=[on_shutdown]), effects=SideEffects())
    with TestClient(app) as client:
        client.get("/")
        assert seen == []
    assert seen == ["effect", "on_shutdown"]
