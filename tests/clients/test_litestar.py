"""Litestar's `create_test_client`, which makes the app itself, and what its `AsyncTestClient` does to an event loop."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import get
from litestar.middleware import DefineMiddleware
from litestar.testing import AsyncTestClient, create_async_test_client, create_test_client

from sidefx import SideEffects, SidefxError
from sidefx.asgi import SideEffectsMiddleware
from sidefx.testing import Capture
from tests.asgi.apps import FRAMEWORKS, Script

ADAPTER: Any = SideEffectsMiddleware  # Litestar types what it hands a middleware more narrowly than ASGI does
HEADERS = {"x-request-id": "r"}


@pytest.fixture
def script() -> Script:
    """What effects note."""
    return Script()


@pytest.fixture
def handler(script: Script) -> Any:
    """The one route of the apps that are made here."""

    @get("/ok")
    async def ok() -> str:
        script.schedule()
        return "ok"

    return ok


def test_a_created_app_is_captured(script: Script, handler: Any, sidefx_capture: Capture) -> None:
    """The adapter is one of its middlewares."""
    adapter = DefineMiddleware(ADAPTER)
    with create_test_client(handler, middleware=[adapter]) as client:
        client.get("/ok", headers=HEADERS)
    assert [effect.args[0] for effect in sidefx_capture if effect.args] == ["always", "success"]
    assert {effect.request_id for effect in sidefx_capture} == {"r"}


@pytest.mark.contract("A15")
def test_a_created_app_without_a_runtime_in_its_lifespan(script: Script, handler: Any, told: list[str]) -> None:
    """A middleware of Litestar's hears of no lifespan: the first request starts the runtime, and says so."""
    effects = SideEffects({"sink": script.sink})
    adapter = DefineMiddleware(ADAPTER, effects=effects)
    with create_test_client(handler, middleware=[adapter]) as client:
        client.get("/ok", headers=HEADERS)
        assert script.of("r") == ["always", "success"]
        client.blocking_portal.call(effects.stop)
    assert len(told) == 1
    assert "none that reaches this app" in told[0]


@pytest.mark.contract("A14")
def test_a_created_app_with_the_runtime_in_its_lifespan(script: Script, handler: Any, told: list[str]) -> None:
    """Litestar starts and drains it with what else it has there."""
    effects = SideEffects({"sink": script.sink})
    adapter = DefineMiddleware(ADAPTER, effects=effects)
    with create_test_client(handler, middleware=[adapter], lifespan=[effects]) as client:
        client.get("/ok", headers=HEADERS)
    assert script.of("r") == ["always", "success"]
    assert len(script.events_of("r")) == 1
    assert told == []


@pytest.mark.anyio
async def test_an_asynchronous_client_of_a_created_app(script: Script, handler: Any) -> None:
    """The same with `create_async_test_client`."""
    effects = SideEffects({"sink": script.sink})
    adapter = DefineMiddleware(ADAPTER, effects=effects)
    async with create_async_test_client(handler, middleware=[adapter], lifespan=[effects]) as client:
        await client.get("/ok", headers=HEADERS)
    assert script.of("r") == ["always", "success"]


@pytest.mark.anyio
async def test_an_asynchronous_client_serves_the_app_on_another_event_loop(script: Script) -> None:
    """So the app's own runtime cannot be awaited in the test, which is told so; the client's portal can."""
    effects = SideEffects({"sink": script.sink})
    app: Any = FRAMEWORKS["litestar"].build(effects, script)
    async with AsyncTestClient(app) as client:
        await client.get("/ok", headers=HEADERS)
        with pytest.raises(SidefxError, match="event loop of another thread"):
            await effects.flush()
        client.blocking_portal.call(effects.flush)
        assert script.of("r") == ["always", "success"]
