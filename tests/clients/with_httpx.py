"""httpx's `ASGITransport`, on any app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.clients.kit import Client, Kit


@asynccontextmanager
async def _opened(app: Any) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

        async def get(path: str, headers: dict[str, str]) -> int:
            return (await client.get(path, headers=headers)).status_code

        yield Client(get)


KITS = {
    "httpx, starlette": Kit("starlette", _opened, backend="asyncio"),
    "httpx, starlette, trio": Kit("starlette", _opened, backend="trio"),
    "httpx, fastapi": Kit("fastapi", _opened, backend="asyncio"),
    "httpx, litestar": Kit("litestar", _opened, backend="asyncio"),
    "httpx, django": Kit("django", _opened, backend="asyncio"),
}
