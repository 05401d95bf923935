"""A sink and an app's lifespan that write down the order in which things open and close."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.lowlevel

from sidefx import after
from tests.asgi.probe import Happened


async def _a_while() -> None:
    """So long that others come to their turn."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


class Diary:
    """Notes the order in which things open and close; a sink whose opening and closing take a while."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    async def __aenter__(self) -> None:
        await _a_while()
        self.entries.append("sink opened")

    async def __aexit__(self, *_: object) -> None:
        await _a_while()
        self.entries.append("sink closed")

    async def send(self, event: Happened) -> None:
        self.entries.append("event delivered")

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[dict[str, str]]:
        """Of the app."""
        self.entries.append("app started")
        after(self.entries.append, "effect of the start-up")
        yield {"pool": "the pool"}
        self.entries.append("app stopped")
