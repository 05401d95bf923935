"""Falcon's `TestClient`, which runs a lifespan for each request, and its `ASGIConductor`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import falcon.testing

from tests.clients.kit import Client, Kit


@asynccontextmanager
async def _client(app: Any) -> AsyncIterator[Client]:
    client = falcon.testing.TestClient(app)

    async def get(path: str, headers: dict[str, str]) -> int:
        return client.simulate_get(path, headers=headers).status_code

    yield Client(get)


@asynccontextmanager
async def _conductor(app: Any) -> AsyncIterator[Client]:
    async with falcon.testing.ASGIConductor(app) as conductor:

        async def get(path: str, headers: dict[str, str]) -> int:
            return (await conductor.simulate_get(path, headers=headers)).status_code

        yield Client(get)


KITS = {
    "falcon": Kit("falcon", _client, lifespan="request"),
    "falcon, conductor": Kit("falcon", _conductor, backend="asyncio", lifespan="client"),
}
