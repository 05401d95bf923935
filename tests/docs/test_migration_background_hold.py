"""From Starlette's and FastAPI's BackgroundTasks: what they hold, and how they end; shown on both sides.

Longer than other files: each sentence of the page needs an app for either side.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, UploadFile
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from sidefx import CallableOptions, RuntimeOptions, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from sidefx.testing import capture
from tests.asgi.probe import Gate, eventually, until
from tests.asgi.servers import SERVERS, Stage, serving, staged
from tests.docs.sides import KIND, Side, fastapi_app

# Starlette's test client asks for another client library than the one that the project uses.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


class Bug(Exception):
    pass


def fail() -> None:
    """A task, or an effect, that raises."""
    raise Bug


# --- what it holds --------------------------------------------------------------------------------------------------


def test_a_dependency_with_yield(there: Side, here: Side) -> None:
    """A dependency with `yield` is closed before effects start."""
    seen: list[str] = []

    async def session() -> Any:
        yield
        seen.append("closed")

    async def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(seen.append, "task")

    async def now() -> None:
        after(seen.append, "effect")

    there.get(fastapi_app(before, dependencies=[Depends(session)]))
    assert seen == ["task", "closed"]
    seen.clear()
    there.get(fastapi_app(before, dependencies=[Depends(session, scope="function")]))
    assert seen == ["closed", "task"]
    seen.clear()
    here.get(fastapi_app(now, dependencies=[Depends(session)]))
    assert seen == ["closed", "effect"]


def test_an_uploaded_file(there: Side, here: Side) -> None:
    """An uploaded file is closed before effects start."""
    pytest.importorskip("python_multipart", reason="FastAPI reads forms with python-multipart")
    seen: list[Any] = []

    async def read(file: UploadFile) -> None:
        seen.append(await file.read())

    async def before(tasks: BackgroundTasks, file: UploadFile) -> None:
        tasks.add_task(read, file)

    async def now(file: UploadFile) -> None:
        after(read, file)
        content = await file.read()
        after(seen.append, content)

    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhello\r\n--x--\r\n'
    for side, endpoint in ((there, before), (here, now)):
        app = FastAPI()
        app.post("/")(endpoint)
        side.get(app, method="POST", body=form, Content_Type="multipart/form-data; boundary=x")
    assert seen == [b"hello", b"hello"], "the task's, and what was read before the response"


def test_outer_middleware(there: Side, here: Side) -> None:
    """Outer middleware ends with the response."""
    with Gate() as gate:

        def before(tasks: BackgroundTasks) -> None:
            tasks.add_task(gate.passed)

        with there.server.wire() as wire:
            case = there.server.play(fastapi_app(before))
            wire.ask(case)
            assert wire.reply().status == 200
            gate.reached()
            assert case not in there.server.witness.over, "what stands around the app, here the witness, waits for it"
    with Gate() as gate:

        def now() -> None:
            after(gate.passed)

        case = here.server.play(fastapi_app(now))
        here.server.get(case=case)
        gate.reached()
        assert here.server.over(case), "while the effect still runs"


def test_base_http_middleware(there: Side, here: Side) -> None:
    """Outer middleware ends with the response: what follows `call_next` runs before the tasks as well."""
    seen: list[str] = []

    async def outer(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        seen.append("middleware")
        return response

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(seen.append, "task")

    def now() -> None:
        after(seen.append, "effect")

    for side, endpoint in ((there, before), (here, now)):
        app = fastapi_app(endpoint)
        app.add_middleware(BaseHTTPMiddleware, dispatch=outer)
        side.get(app)
    assert seen == ["middleware", "task", "middleware", "effect"]


def test_a_place_in_the_server() -> None:
    """Effects hold no place in the server."""

    def statuses(server: Any, app: Any) -> list[int]:
        with server.wire() as wire:
            replies = []
            for _ in range(3):
                wire.ask(server.play(app))
                replies.append(wire.reply().status)
            return replies

    stage = Stage()
    with serving(KIND, stage, limit_concurrency=2) as server, Gate() as gate:
        server.stage = stage

        def before(tasks: BackgroundTasks) -> None:
            tasks.add_task(gate.passed)

        assert statuses(server, fastapi_app(before)) == [200, 200, 503]
    with staged(KIND, limit_concurrency=2) as server, Gate() as gate:

        def now() -> None:
            after(gate.passed)

        assert statuses(server, fastapi_app(now)) == [200, 200, 200]


@pytest.mark.parametrize("kind", SERVERS)
def test_the_connection(kind: str) -> None:
    """The connection is free at once, as it was there."""
    stage = Stage()
    with serving(kind, stage) as server, Gate() as gate:
        server.stage = stage

        def before(tasks: BackgroundTasks) -> None:
            tasks.add_task(gate.passed)

        with server.wire() as wire:
            wire.ask(server.play(fastapi_app(before)))
            assert wire.reply().status == 200
            gate.reached()
            wire.ask(server.play(fastapi_app(lambda: "next")))
            assert wire.reply().body == b'"next"'
            assert not gate.is_open


def test_threads() -> None:
    """Synchronous effects have threads of their own."""

    async def one_thread() -> float:
        limiter = anyio.to_thread.current_default_thread_limiter()
        before, limiter.total_tokens = limiter.total_tokens, 1
        return before

    async def waiting() -> int:
        return anyio.to_thread.current_default_thread_limiter().statistics().tasks_waiting

    called: list[str] = []

    def endpoint() -> None:
        called.append("endpoint")

    stage = Stage()
    with serving(KIND, stage) as server, Gate() as gate, server.wire() as wire:
        server.stage = stage
        assert server.run(one_thread) == 40

        async def before(tasks: BackgroundTasks) -> None:
            tasks.add_task(gate.passed_blocking)

        server.get(case=server.play(fastapi_app(before)))
        gate.reached()
        wire.ask(server.play(fastapi_app(endpoint)))
        eventually(lambda: server.run(waiting))
        assert called == []
        gate.open()
        assert wire.reply().status == 200
    with staged(KIND) as server, Gate() as gate:
        server.run(one_thread)

        async def now() -> None:
            after(gate.passed_blocking)

        server.get(case=server.play(fastapi_app(now)))
        gate.reached()
        assert server.get(case=server.play(fastapi_app(endpoint)))[0].status == 200
        assert server.fx.stats().callables.in_flight == 1, "while the effect still runs"


def test_what_waits_is_bounded() -> None:
    """What waits is bounded."""
    options = RuntimeOptions(callables=CallableOptions(concurrency=1, max_queued=1))
    ran: list[int] = []
    with staged(KIND, lambda probe: SideEffects(runtime=options)) as server, Gate() as gate:

        def hold() -> None:
            after(gate.passed)

        def now() -> None:
            for number in range(3):
                after(ran.append, number)

        server.get(case=server.play(fastapi_app(hold)))
        gate.reached()
        server.get(case=server.play(fastapi_app(now)))
        eventually(lambda: server.fx.stats().callables.dropped == {"full": 2})
        gate.open()
        eventually(lambda: ran)
    assert ran == [0]
    assert CallableOptions().max_queued == 10_000


# --- ends -----------------------------------------------------------------------------------------------------------


class Leaving:
    """A client that leaves after the first part of a stream, and the stream: as a server of that ASGI version tells."""

    def __init__(self, spec_version: str) -> None:
        self.told_by_send = spec_version == "2.4"
        self.scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        self.scope["asgi"] = {"version": "3.0", "spec_version": spec_version}
        self._parts = 0

    def __aiter__(self) -> Leaving:
        return self

    async def __anext__(self) -> bytes:
        self._parts += 1
        if self._parts > 1 and not self.told_by_send:
            await anyio.sleep_forever()
        return b"part"

    async def receive(self) -> Any:
        await until(lambda: self._parts and not self.told_by_send)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._parts > 1:
            raise OSError


@pytest.mark.anyio
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_client_that_leaves(spec_version: str) -> None:
    """A client that leaves takes no effect along."""
    ran: list[str] = []

    client = Leaving(spec_version)

    async def before(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(client, background=BackgroundTask(ran.append, "task"))(scope, receive, send)

    async def now(scope: Any, receive: Any, send: Any) -> None:
        after(ran.append, "effect")
        await StreamingResponse(client)(scope, receive, send)

    async with SideEffects() as fx:
        for app in (before, SideEffectsMiddleware(now, effects=fx)):
            client = Leaving(spec_version)
            with pytest.raises(ClientDisconnect) if spec_version == "2.4" else nullcontext():
                await app(client.scope, client.receive, client.send)
    assert ran == (["task", "effect"] if spec_version == "2.3" else ["effect"])


def test_shutdown_there(caplog: pytest.LogCaptureFixture) -> None:
    """Shutdown waits for effects for `drain_timeout` seconds: uvicorn waits for tasks as long as they take."""
    caplog.set_level(logging.INFO, "uvicorn.error")
    ran: list[str] = []
    stage = Stage()
    with serving(KIND, stage) as server, Gate() as gate:
        server.stage = stage

        async def work() -> None:
            await gate.passed()
            ran.append("task")

        def before(tasks: BackgroundTasks) -> None:
            tasks.add_task(work)

        server.get(case=server.play(fastapi_app(before)))
        gate.reached()
        server.stop()
        eventually(lambda: "Waiting for background tasks to complete" in caplog.text)
        assert ran == []
        gate.open()
    assert ran == ["task"]


def test_a_shutdown_with_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Shutdown waits for effects for `drain_timeout` seconds: uvicorn cancels tasks at its own limit."""
    stage = Stage()
    with serving(KIND, stage, timeout_graceful_shutdown=0.05) as server:
        server.stage = stage

        def before(tasks: BackgroundTasks) -> None:
            tasks.add_task(anyio.sleep_forever)

        case = server.play(fastapi_app(before))
        server.get(case=case)
    assert "Cancel 1 running task(s), timeout graceful shutdown exceeded" in caplog.text
    assert isinstance(server.over(case).error, asyncio.CancelledError)


def test_shutdown_here() -> None:
    """Shutdown waits for effects for `drain_timeout` seconds."""
    ran: list[str] = []
    with staged(KIND) as server, Gate() as gate:

        async def work() -> None:
            await gate.passed()
            ran.append("effect")

        def now() -> None:
            after(work)

        server.get(case=server.play(fastapi_app(now)))
        gate.reached()
        server.stop()
        eventually(lambda: "lifespan.shutdown" in server.witness.told)
        assert ran == []
        gate.open()
    assert ran == ["effect"]
    assert RuntimeOptions().drain_timeout == 10


def test_what_is_left_at_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """Shutdown waits for effects for `drain_timeout` seconds: what is left then is cancelled, and listed in the log."""

    def now() -> None:
        after(anyio.sleep_forever)

    with staged(KIND, lambda probe: SideEffects(runtime=RuntimeOptions(drain_timeout=0.05))) as server:
        server.get(case=server.play(fastapi_app(now)))
    assert server.fx.stats().callables.dropped == {"shutdown": 1}
    assert "callables: sleep_forever" in caplog.text


# --- in tests, and on the way ---------------------------------------------------------------------------------------


def test_a_test_client() -> None:
    """In a test, effects have run when the `with TestClient(app)` block has ended."""
    from starlette.testclient import TestClient

    ran: list[str] = []

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "task")

    with TestClient(fastapi_app(before)) as client:
        client.get("/")
        assert ran == ["task"]
    ran.clear()
    with Gate() as gate:

        async def work() -> None:
            await gate.passed()
            ran.append("effect")

        def now() -> None:
            after(work)

        with TestClient(SideEffectsMiddleware(fastapi_app(now), effects=SideEffects())) as client:
            client.get("/")
            assert ran == []
            gate.open()
        assert ran == ["effect"]
        TestClient(SideEffectsMiddleware(fastapi_app(now), effects=SideEffects())).get("/")
        assert ran == ["effect", "effect"], "without `with`, the call returns once they have run"
    with capture() as captured:
        TestClient(SideEffectsMiddleware(fastapi_app(now))).get("/")
        assert captured.calls(work) == [()]


def test_a_failure_under_a_test_client() -> None:
    """In a test, effects have run when the `with TestClient(app)` block has ended: what they raise is not raised."""
    from starlette.testclient import TestClient

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    def now() -> None:
        after(fail)

    with TestClient(fastapi_app(before)) as client, pytest.raises(Bug):
        client.get("/")
    fx = SideEffects()
    with TestClient(SideEffectsMiddleware(fastapi_app(now), effects=fx)) as client:
        assert client.get("/").status_code == 200
    assert fx.stats().callables.rejected == 1


def test_both_in_one_request(here: Side) -> None:
    """Both can be used in one request while you move."""
    ran: list[str] = []

    async def slow() -> None:
        await anyio.sleep(0.01)
        ran.append("task")

    async def effect(what: str) -> None:
        ran.append(what)

    def both(tasks: BackgroundTasks) -> None:
        after(effect, "effect")
        after(effect, "effect of a success", when="success")
        tasks.add_task(slow)

    here.get(fastapi_app(both))
    assert ran == ["task", "effect", "effect of a success"]
    ran.clear()

    def both_and_fail(tasks: BackgroundTasks) -> None:
        both(tasks)
        tasks.add_task(fail)

    here.get(fastapi_app(both_and_fail))
    assert ran == ["task", "effect"]
