"""Litestar's `TestClient` and `AsyncTestClient`, both of which serve the app on an event loop in a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar.testing import AsyncTestClient, TestClient

from tests.clients.kit import Client, Kit


@asynccontextmanager
async def _with(app: Any) -> AsyncIterator[Client]:
    with TestClient(app) as client:
        yield _in_use(client)


@asynccontextmanager
async def _without(app: Any) -> AsyncIterator[Client]:
    yield _in_use(TestClient(app))


@asynccontextmanager
async def _async_with(app: Any) -> AsyncIterator[Client]:
    async with AsyncTestClient(app) as client:
        yield _async_in_use(client)


@asynccontextmanager
async def _async_without(app: Any) -> AsyncIterator[Client]:
    yield _async_in_use(AsyncTestClient(app))


def _in_use(client: TestClient[Any]) -> Client:
    async def get(path: str, headers: dict[str, str]) -> int:
        return client.get(path, headers=headers).status_code

    return Client(get, lambda effects: client.blocking_portal.call(effects.flush))


def _async_in_use(client: AsyncTestClient[Any]) -> Client:
    async def get(path: str, headers: dict[str, str]) -> int:
        return (await client.get(path, headers=headers)).status_code

    return Client(get, lambda effects: client.blocking_portal.call(effects.flush))


KITS = {
    "litestar, with": Kit("litestar", _with, lifespan="client"),
    "litestar, without with": Kit("litestar", _without),
    "litestar, as its middleware": Kit("litestar, as its middleware", _with, lifespan="client", starter="app"),
    "litestar, async with": Kit("litestar", _async_with, backend="asyncio", lifespan="client"),
    "litestar, async with, trio": Kit("litestar", _async_with, backend="trio", lifespan="client"),
    "litestar, async, without with": Kit("litestar", _async_without, backend="asyncio"),
}
