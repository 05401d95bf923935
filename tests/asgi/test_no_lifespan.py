"""Servers and clients that tell of no lifespan: a request starts the runtime, and waits for its effects."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sidefx import SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.apps import AppBug
from tests.asgi.diary import Diary
from tests.asgi.probe import PATIENCE, Gate, Happened, Probe, eventually, until
from tests.asgi.servers import UVICORN, serving

# Starlette's test client asks for another client library than the one that the project uses.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


def _app(probe: Probe, *, effects: SideEffects | None = None) -> SideEffectsMiddleware:
    async def ok(request: Any) -> Any:
        probe.schedule()
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/ok", ok)])
    return SideEffectsMiddleware(app, effects=effects or SideEffects({"sink": probe.sink}))


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name.startswith("sidefx")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


@pytest.mark.contract("A15")
@pytest.mark.anyio
async def test_an_in_process_transport_without_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, then everything works; when a request has returned, its effects have settled."""
    probe = Probe()
    app = _app(probe)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for case in ("one", "two", "three"):
            response = await client.get("/ok", headers={"x-request-id": case})
            assert response.status_code == 200
            assert probe.of(case) == ["always", "success"]
            assert len(probe.events_of(case)) == 1
    await app.effects.stop()

    assert len(_warnings(caplog)) == 1
    assert "runs no ASGI lifespan" in _warnings(caplog)[0]


@pytest.mark.contract("A15")
@pytest.mark.anyio
async def test_first_requests_at_once_start_one_runtime(caplog: pytest.LogCaptureFixture) -> None:
    """However many requests are the first, the sinks are opened once."""
    diary, probe = Diary(), Probe()
    app = _app(probe, effects=SideEffects({"diary": diary}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

        async def ask(case: str) -> None:
            await client.get("/ok", headers={"x-request-id": case})
            assert probe.of(case) == ["always", "success"]

        async with anyio.create_task_group() as tasks:
            for index in range(10):
                tasks.start_soon(ask, f"case-{index}")
    await app.effects.stop()

    assert diary.entries == ["sink opened", *["event delivered"] * 10, "sink closed"]
    assert len(_warnings(caplog)) == 1


@pytest.mark.contract("A15")
@pytest.mark.anyio
async def test_a_first_request_that_is_cancelled_while_the_sinks_open() -> None:
    """The next one finds a runtime that works."""
    diary, probe = Diary(), Probe()
    app = _app(probe, effects=SideEffects({"diary": diary}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, "/ok")
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await client.get("/ok", headers={"x-request-id": "second"})
    await app.effects.stop()

    assert probe.of("second") == ["always", "success"]
    assert diary.entries.count("sink opened") == diary.entries.count("sink closed")
    assert diary.entries[-1] == "sink closed"


@pytest.mark.contract("A15")
def test_one_adapter_under_one_backend_after_the_other() -> None:
    """An app of a module serves tests on asyncio and then on trio."""
    probe = Probe()
    app = _app(probe)

    async def ask(case: str) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            await client.get("/ok", headers={"x-request-id": case})
        await app.effects.stop()

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(ask, backend, backend=backend)
        assert probe.of(backend)[-2:] == ["always", "success"]


@pytest.mark.contract("A15")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_client_without_with(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It runs each request on an event loop of its own; each has its effects, and there is one warning."""
    from starlette.testclient import TestClient

    probe = Probe()
    client = TestClient(_app(probe), backend=backend)
    for case in ("one", "two"):
        assert client.get("/ok", headers={"x-request-id": case}).status_code == 200
        assert probe.of(case) == ["always", "success"]
        assert len(probe.events_of(case)) == 1
    assert len([line for line in _warnings(caplog) if "lifespan" in line]) == 1


@pytest.mark.contract("A15", "S02")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_client_without_with_and_an_exception(backend: Any) -> None:
    """Where the 500 has been sent, the loop that ends with the request does not take its effects along."""
    from starlette.testclient import TestClient

    probe = Probe()

    async def slow() -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        probe.note("slow")

    async def boom(request: Any) -> Any:
        after(slow)
        raise AppBug

    app = SideEffectsMiddleware(Starlette(routes=[Route("/", boom)]), effects=SideEffects())
    client = TestClient(app, backend=backend, raise_server_exceptions=False)
    assert client.get("/", headers={"x-request-id": "boom"}).status_code == 500
    assert probe.of("boom") == ["slow"]


@pytest.mark.contract("A14")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_client_with_with(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It enters the lifespan: nothing is to be warned of, and leaving it has drained."""
    from starlette.testclient import TestClient

    probe = Probe()
    app = _app(probe)
    for case in ("one", "two"):
        with TestClient(app, backend=backend) as client:
            assert client.get("/ok", headers={"x-request-id": case}).status_code == 200
        assert probe.of(case) == ["always", "success"]
    assert _warnings(caplog) == []


@pytest.mark.contract("A04")
def test_debug_messages_pass_to_the_test_client() -> None:
    """`http.response.debug`, which only a test client takes, reaches it before the start of the response."""
    from starlette.testclient import TestClient

    probe = Probe()
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def seen(message: Any) -> None:
            sent.append(message)
            await send(message)

        probe.schedule()
        assert "http.response.debug" in scope["extensions"]
        await seen({"type": "http.response.debug", "info": {"template": "t", "context": {"a": 1}}})
        await PlainTextResponse("ok")(scope, receive, seen)

    client = TestClient(SideEffectsMiddleware(app, effects=SideEffects({"sink": probe.sink})))
    response: Any = client.get("/", headers={"x-request-id": "debug"})
    assert response.context == {"a": 1}
    assert probe.of("debug") == ["always", "success"]


@pytest.mark.contract("A15")
@pytest.mark.parametrize("kind", UVICORN)
def test_a_server_that_is_told_to_run_no_lifespan(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Behind `--lifespan off` the client has its response while its request is still kept for its effects.

    Another request shows that the event loop lasts: then none is kept any more, and what is kept is let go.
    """
    probe, gate = Probe(), Gate()
    effects = SideEffects({"sink": probe.sink})

    async def endpoint(request: Any) -> Any:
        after(gate.passed)
        probe.schedule()
        return PlainTextResponse("ok")

    app = SideEffectsMiddleware(Starlette(routes=[Route("/", endpoint)]), effects=effects)
    with gate, serving(kind, app, lifespan="off") as server:
        server.probe, server.fx = probe, effects
        reply, first = server.get()
        assert reply.status == 200
        gate.reached()
        assert first not in server.witness.over

        _, second = server.get()
        server.over(first)
        server.over(second)
        eventually(lambda: effects.stats().callables.in_flight >= 2)
        gate.open()
        assert server.settled(first) == server.settled(second) == ["always", "success"]
        server.run(effects.stop)
    assert len(_warnings(caplog)) == 1


@pytest.mark.contract("A15", "S02")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_event_loops_at_once(backend: Any) -> None:
    """Two test clients in two threads have a loop for each request; one that outlives the other's loses nothing."""
    from starlette.testclient import TestClient

    probe, gate = Probe(), Gate()

    async def endpoint(request: Any) -> Any:
        if request.headers["x-request-id"] == "second":
            await gate.passed()
        probe.schedule()
        return PlainTextResponse("ok")

    app = SideEffectsMiddleware(
        Starlette(routes=[Route("/", endpoint)]), effects=SideEffects({"sink": probe.sink}, name="two loops")
    )

    def ask(case: str) -> int:
        return TestClient(app, backend=backend).get("/", headers={"x-request-id": case}).status_code

    with gate, ThreadPoolExecutor(1) as other:
        assert ask("zeroth") == 200
        second = other.submit(ask, "second")  # its loop runs the runtime ...
        gate.reached()
        assert ask("first") == 200  # ... in which the effects of this one run
        gate.open()
        assert second.result(PATIENCE) == 200
        assert [len(probe.events_of(case)) for case in ("zeroth", "first", "second")] == [1, 1, 1]
    for case in ("zeroth", "first", "second"):
        assert probe.of(case) == ["always", "success"]


@pytest.mark.contract("A15", "S02")
def test_a_request_that_outlives_the_event_loop_of_the_runtime() -> None:
    """It came while the runtime ran on another request's loop, which has ended: it starts the runtime on its own."""
    from starlette.testclient import TestClient

    probe, first_gate, second_gate = Probe(), Gate(), Gate()
    gates = {"first": first_gate, "second": second_gate}

    async def endpoint(request: Any) -> Any:
        await gates[request.headers["x-request-id"]].passed()
        probe.schedule()
        return PlainTextResponse("ok")

    app = SideEffectsMiddleware(Starlette(routes=[Route("/", endpoint)]), effects=SideEffects({"sink": probe.sink}))

    def ask(case: str) -> int:
        return TestClient(app).get("/", headers={"x-request-id": case}).status_code

    with first_gate, second_gate, ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, "first")
        first_gate.reached()
        second = threads.submit(ask, "second")
        second_gate.reached()
        first_gate.open()
        assert first.result(PATIENCE) == 200
        assert not app.effects.running
        second_gate.open()
        assert second.result(PATIENCE) == 200
    assert probe.of("first") == probe.of("second") == ["always", "success"]
    assert len(probe.delivered) == 2


@pytest.mark.contract("A15")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_that_waits_for_the_start_on_another_event_loop(backend: Any) -> None:
    """Of two first requests in two threads one starts the runtime; the other waits for that on a loop of its own."""
    from starlette.testclient import TestClient

    probe, gate = Probe(), Gate()
    waiting: list[str] = []
    answered: list[str] = []

    class Slow:
        async def __aenter__(self) -> None:
            await gate.passed()

        async def __aexit__(self, *_: object) -> None: ...

        async def send(self, event: Happened) -> None:
            await probe.sink(event)

    async def endpoint(request: Any) -> Any:
        if adapter.effects.engine.here:  # its loop is the runtime's, and is to end after the other
            await until(lambda: answered)
        probe.schedule()
        return PlainTextResponse("ok")

    adapter = SideEffectsMiddleware(
        Starlette(routes=[Route("/", endpoint)]), effects=SideEffects({"slow": Slow()}, name="slow")
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waiting.append(scope["path"])
        await adapter(scope, receive, send)

    def ask(case: str) -> int:
        status = TestClient(app, backend=backend).get("/", headers={"x-request-id": case}).status_code
        answered.append(case)
        return status

    with gate, ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(ask, case) for case in ("one", "two")]
        gate.reached()
        eventually(lambda: len(waiting) == 2)
        gate.open()
        assert [answer.result(PATIENCE) for answer in answers] == [200, 200]
    assert probe.of("one") == probe.of("two") == ["always", "success"]
