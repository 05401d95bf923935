"""Starlette's `TestClient`, which FastAPI's is too: what it alone can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from sidefx import NotRunningError, SideEffects, after
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from sidefx.testing import Capture, capture
from tests.asgi.apps import AppBug
from tests.asgi.probe import PATIENCE, Gate, Probe

# Starlette's test client asks for another client library than the one that the project uses.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def client_of(app: ASGIApp, **options: Any) -> Any:
    """Imported where the warning is awaited."""
    from starlette.testclient import TestClient

    return TestClient(app, **options)


@pytest.fixture
def probe() -> Probe:
    """What effects note."""
    return Probe()


@pytest.fixture
def app(probe: Probe) -> Starlette:
    """An app without an adapter: each test puts it where it wants it."""

    async def chat(websocket: Any) -> None:
        await websocket.accept()
        after(probe.note_in_turn, "chat")
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    async def denied(websocket: Any) -> None:
        after(probe.note_in_turn, "denied")
        await websocket.close()

    async def chunks() -> AsyncIterator[str]:
        yield "first"
        after(probe.note_in_turn, "stream")
        yield "second"

    async def stream(request: Any) -> StreamingResponse:
        after(probe.note_in_turn, "handler")
        return StreamingResponse(chunks())

    async def boom(request: Any) -> PlainTextResponse:
        probe.schedule()
        raise AppBug

    async def ok(request: Any) -> PlainTextResponse:
        after(probe.note_in_turn, request.url.query)
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        after(probe.note_in_turn, "start-up")
        yield

    routes = [Route("/stream", stream), Route("/boom", boom), Route("/ok", ok)]
    routes += [WebSocketRoute("/chat", chat), WebSocketRoute("/denied", denied)]  # type: ignore[list-item]  # both are routes
    return Starlette(routes=routes, lifespan=lifespan)


def notes_of(captured: Capture) -> list[Any]:
    """What would be noted."""
    return [effect.args[0] for effect in captured if effect.args]


@pytest.mark.contract("A13")
@BACKENDS
def test_a_websocket_is_captured_when_it_ends(backend: str, app: Starlette, sidefx_capture: Capture) -> None:
    """Not while it is open."""
    with client_of(SideEffectsMiddleware(app), backend=backend).websocket_connect("/chat") as websocket:
        websocket.send_text("hello")
        assert websocket.receive_text() == "hello"
        # the app closes it, and ends, in its own time: the client's block waits for that
    assert notes_of(sidefx_capture) == ["chat"]
    request = sidefx_capture[0].request
    assert request is not None
    assert (request.path, request.status, request.outcome) == ("/chat", 101, "complete")


@pytest.mark.contract("A13")
@BACKENDS
def test_a_denied_websocket_is_captured(backend: str, app: Starlette, sidefx_capture: Capture) -> None:
    """With the status that the client is told."""
    client = client_of(SideEffectsMiddleware(app), backend=backend)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/denied"):
        pytest.fail("it was accepted")
    assert notes_of(sidefx_capture) == ["denied"]
    assert sidefx_capture[0].request is not None
    assert sidefx_capture[0].request.status == 403


@pytest.mark.contract("A13")
@BACKENDS
def test_a_websocket_under_a_runtime_of_the_test_s_own(backend: str, app: Starlette, probe: Probe) -> None:
    """It needs no lifespan."""
    with SideEffects() as fx:
        client = client_of(SideEffectsMiddleware(app, effects=fx), backend=backend)
        with client.websocket_connect("/chat", headers={"x-request-id": "ws"}) as websocket:
            websocket.send_text("hello")
            websocket.receive_text()
        fx.flush_blocking(PATIENCE)
        assert probe.of("ws") == ["chat"]


@pytest.mark.contract("A02")
@BACKENDS
def test_a_stream_is_captured_when_it_ends(backend: str, app: Starlette, sidefx_capture: Capture) -> None:
    """Not at its start."""
    client = client_of(SideEffectsMiddleware(app), backend=backend)
    with client.stream("GET", "/stream") as response:
        chunks: Iterator[str] = response.iter_text()
        assert next(chunks) == "first"
        assert notes_of(sidefx_capture) == []
        assert next(chunks) == "second"
        assert list(chunks) == []
    assert notes_of(sidefx_capture) == ["handler", "stream"]


@pytest.mark.contract("S02")
@BACKENDS
def test_a_stream_that_the_client_leaves_is_captured(backend: str, app: Starlette, sidefx_capture: Capture) -> None:
    """What had been scheduled until then."""
    client = client_of(SideEffectsMiddleware(app), backend=backend)
    with client.stream("GET", "/stream") as response:
        assert next(response.iter_text()) == "first"
    assert "handler" in notes_of(sidefx_capture)
    assert sidefx_capture[0].request is not None
    assert sidefx_capture[0].request.outcome != "complete"


@pytest.mark.contract("S02", "S13")
@BACKENDS
@pytest.mark.parametrize("raises", [True, False])
def test_an_exception_of_the_app(backend: str, raises: bool, app: Starlette, sidefx_capture: Capture) -> None:
    """Whether the client raises it or answers with a 500, it is an error, and what it scheduled is captured."""
    client = client_of(SideEffectsMiddleware(app), backend=backend, raise_server_exceptions=raises)
    if raises:
        with pytest.raises(AppBug):
            client.get("/boom")
    else:
        assert client.get("/boom").status_code == 500
    assert notes_of(sidefx_capture) == ["always", "error"]


@BACKENDS
def test_effects_of_the_start_up_are_captured(backend: str, app: Starlette) -> None:
    """They belong to no request."""
    with capture() as captured, client_of(SideEffectsMiddleware(app), backend=backend) as client:
        assert notes_of(captured) == ["start-up"]
        assert captured[0].request is None
        client.get("/ok?request")
        assert notes_of(captured) == ["start-up", "request"]


@pytest.mark.contract("A14")
@BACKENDS
def test_effects_of_the_start_up_run(backend: str, app: Starlette, probe: Probe) -> None:
    """Whoever runs the runtime."""
    with client_of(SideEffectsMiddleware(app, effects=SideEffects()), backend=backend):
        pass
    assert probe.of("") == ["start-up"]
    with SideEffects() as fx:
        with client_of(SideEffectsMiddleware(app, effects=fx), backend=backend):
            pass
        fx.flush_blocking(PATIENCE)
        assert probe.of("") == ["start-up", "start-up"]


@pytest.mark.contract("S11")
def test_what_a_shutdown_schedules(probe: Probe) -> None:
    """It comes after the drain, and is told so; under a capture, where nothing is drained, it is captured."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        after(probe.note_in_turn, "shutdown")

    app = Starlette(lifespan=lifespan)
    with (
        pytest.raises(NotRunningError, match="has ended its drain"),
        client_of(SideEffectsMiddleware(app, effects=SideEffects())),
    ):
        pass
    with capture() as captured, client_of(SideEffectsMiddleware(app)):
        pass
    assert notes_of(captured) == ["shutdown"]


@BACKENDS
def test_a_capture_while_a_client_is_in_use(backend: str, app: Starlette, probe: Probe) -> None:
    """A client of the whole session, whose runtime runs: what one test captures does not run, and the rest does."""
    with client_of(SideEffectsMiddleware(app, effects=SideEffects()), backend=backend) as client:
        client.get("/ok?before", headers={"x-request-id": "r"})
        with capture() as captured:
            client.get("/ok?captured", headers={"x-request-id": "r"})
            assert notes_of(captured) == ["captured"]
        client.get("/ok?after", headers={"x-request-id": "r"})
    assert probe.of("r") == ["before", "after"]


@BACKENDS
def test_a_capture_that_ends_before_its_client(backend: str, app: Starlette, probe: Probe) -> None:
    """The start-up was captured, so nothing runs yet: the next request starts it."""
    app_with_adapter = SideEffectsMiddleware(app, effects=SideEffects())
    with capture() as captured:
        client = client_of(app_with_adapter, backend=backend)
        client.__enter__()
        client.get("/ok?captured", headers={"x-request-id": "r"})
    try:
        client.get("/ok?after", headers={"x-request-id": "r"})
        assert notes_of(captured) == ["start-up", "captured"]
        assert probe.of("r") == ["after"]
    finally:
        client.__exit__(None, None, None)


@pytest.mark.contract("X04")
@BACKENDS
def test_requests_from_several_threads(backend: str, app: Starlette, sidefx_capture: Capture) -> None:
    """Each effect knows its own request."""
    with client_of(SideEffectsMiddleware(app), backend=backend) as client, ThreadPoolExecutor(8) as threads:

        def ask(number: int) -> None:
            client.get(f"/ok?{number}", headers={"x-request-id": str(number)})

        list(threads.map(ask, range(40)))
    effects = [effect for effect in sidefx_capture if effect.request is not None]
    assert sorted(int(effect.args[0]) for effect in effects) == list(range(40))
    assert [effect.args[0] for effect in effects] == [effect.request_id for effect in effects]


@pytest.mark.contract("S08")
def test_an_exception_that_is_answered_outside_of_the_adapter(probe: Probe, app: Starlette, told: list[str]) -> None:
    """Without `with`, the event loop ends with that request: the log says what is lost. With it, nothing is."""
    gate = Gate()

    async def waiting() -> None:
        await gate.passed()
        probe.note("passed")

    async def boom(request: Any) -> None:
        after(waiting)
        raise AppBug

    app.router.routes.append(Route("/waiting", boom))
    app.add_middleware(SideEffectsMiddleware, effects=SideEffects())
    headers = {"x-request-id": "r"}
    assert client_of(app, raise_server_exceptions=False).get("/waiting", headers=headers).status_code == 500
    assert "1 effect(s) were not finished at shutdown and are lost" in told[-1]

    with client_of(app, raise_server_exceptions=False) as client, gate:
        assert client.get("/waiting", headers=headers).status_code == 500
    assert probe.of("r") == ["passed"]
