"""Django's `Client` and `AsyncClient`, which call its handlers past the adapter: with a scope for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings
from django.test import AsyncClient, override_settings
from django.test import Client as DjangoClient

from tests.clients.kit import Client, Kit


def scoped() -> Any:
    """The settings of such a test."""
    return override_settings(MIDDLEWARE=["sidefx.testing.scope_per_request", *settings.MIDDLEWARE])


@asynccontextmanager
async def _client(app: object) -> AsyncIterator[Client]:
    with scoped():
        client: Any = DjangoClient()

        async def get(path: str, headers: dict[str, str]) -> int:
            return int(client.get(path, headers=headers).status_code)

        yield Client(get)


@asynccontextmanager
async def _async_client(app: object) -> AsyncIterator[Client]:
    with scoped():
        client: Any = AsyncClient()

        async def get(path: str, headers: dict[str, str]) -> int:
            return int((await client.get(path, headers=headers)).status_code)

        yield Client(get)


KITS = {
    "django, Client": Kit("django", _client, starter="test"),
    "django, AsyncClient": Kit("django", _async_client, backend="asyncio", starter="test"),
}
