"""Quart's `test_client()`, and `test_app()`, which runs the lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.clients.kit import Client, Kit


@asynccontextmanager
async def _client(app: Any) -> AsyncIterator[Client]:
    yield _in_use(app.test_client())


@asynccontextmanager
async def _app(app: Any) -> AsyncIterator[Client]:
    async with app.test_app() as running:
        yield _in_use(running.test_client())


def _in_use(client: Any) -> Client:
    async def get(path: str, headers: dict[str, str]) -> int:
        return int((await client.get(path, headers=headers)).status_code)

    return Client(get)


KITS = {
    "quart, test_client": Kit("quart", _client, backend="asyncio"),
    "quart, test_app": Kit("quart", _app, backend="asyncio", lifespan="client"),
}
