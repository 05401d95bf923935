"""Servers and clients that tell of no lifespan: a request starts the runtime, and waits for its effects."""

from __future__ import annotations

import logging
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
from tests.asgi.probe import Gate, Probe
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
        await anyio.sleep(0.05)
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
    """Behind `--lifespan off` the client has its response while its request is still kept for its effects."""
    probe, gate = Probe(), Gate()
    effects = SideEffects({"sink": probe.sink})

    async def endpoint(request: Any) -> Any:
        after(gate.passed)
        probe.schedule()
        return PlainTextResponse("ok")

    app = SideEffectsMiddleware(Starlette(routes=[Route("/", endpoint)]), effects=effects)
    with gate, serving(kind, app, lifespan="off") as server:
        server.probe, server.fx = probe, effects
        reply, case = server.get()
        assert reply.status == 200
        gate.reached()
        assert case not in server.witness.over
        gate.open()
        assert server.settled(case) == ["always", "success"]
        server.run(effects.stop)
    assert len(_warnings(caplog)) == 1
