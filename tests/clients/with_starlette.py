"""Starlette's and FastAPI's `TestClient`, which are one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

from tests.clients.kit import Client, Kit

Backend = Literal["asyncio", "trio"]


def _client(app: Any, backend: Backend) -> Any:
    from starlette.testclient import TestClient  # warns when it is imported, which is for the test to bear

    return TestClient(app, backend=backend)


def _with(backend: Backend) -> Callable[[Any], AbstractAsyncContextManager[Client]]:
    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[Client]:
        with _client(app, backend) as client:

            async def get(path: str, headers: dict[str, str]) -> int:
                return int(client.get(path, headers=headers).status_code)

            yield Client(get, lambda effects: client.portal.call(effects.flush))

    return opened


def _without(backend: Backend) -> Callable[[Any], AbstractAsyncContextManager[Client]]:
    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[Client]:
        client = _client(app, backend)

        async def get(path: str, headers: dict[str, str]) -> int:
            return int(client.get(path, headers=headers).status_code)

        yield Client(get)

    return opened


KITS = {
    "starlette, with": Kit("starlette", _with("asyncio"), lifespan="client"),
    "starlette, with, trio": Kit("starlette", _with("trio"), lifespan="client"),
    "starlette, without with": Kit("starlette", _without("asyncio")),
    "starlette, without with, trio": Kit("starlette", _without("trio")),
    "starlette, as its middleware": Kit("starlette, as its middleware", _with("asyncio"), lifespan="client"),
    "fastapi, with": Kit("fastapi", _with("asyncio"), lifespan="client"),
    "fastapi, without with": Kit("fastapi", _without("asyncio")),
    "django, under starlette's": Kit("django", _with("asyncio"), lifespan="client"),
}
