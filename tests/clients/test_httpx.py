"""httpx's `ASGITransport`: requests at once, where the client runs no lifespan."""

from __future__ import annotations

import anyio
import httpx
import pytest

from sidefx import SideEffects
from sidefx.testing import Capture
from tests.asgi.apps import FRAMEWORKS, Script

pytestmark = pytest.mark.anyio


async def ask_at_once(client: httpx.AsyncClient, count: int) -> None:
    """Each has its number for its id."""

    async def ask(number: int) -> None:
        await client.get("/ok", headers={"x-request-id": str(number)})

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(ask, number)


@pytest.mark.contract("A15", "D04")
async def test_of_requests_at_once_effects_have_settled_when_asked() -> None:
    """Who asks the runtime that the first of them has started needs to know nothing of who is kept."""
    script = Script()
    effects = SideEffects({"sink": script.sink})
    app = FRAMEWORKS["starlette"].build(effects, script)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await ask_at_once(client, 20)
        await effects.flush(5)
        for number in range(20):
            assert script.of(str(number)) == ["always", "success"]
            assert len(script.events_of(str(number))) == 1
        await client.get("/ok", headers={"x-request-id": "later"})
        await effects.flush(5)
        assert script.of("later") == ["always", "success"]
    await effects.stop()


@pytest.mark.contract("X04")
async def test_requests_at_once_are_captured(sidefx_capture: Capture) -> None:
    """Each effect knows its own request."""
    script = Script()
    app = FRAMEWORKS["starlette"].build(SideEffects(), script)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await ask_at_once(client, 20)
    events = sidefx_capture.events()
    assert len(events) == 20
    assert {event.request.request_id for event in events if event.request} == {str(number) for number in range(20)}
