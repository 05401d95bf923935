"""The ways of sidefx in `journal_enqueue.py`: each opens, and gives a request of three events to await."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from disk import EVENTS

from sidefx import (
    AuditEvent,
    BatchOptions,
    BufferOptions,
    JournalOptions,
    RuntimeOptions,
    SideEffects,
    SinkOptions,
    after,
    audit,
)
from sidefx.asgi import SideEffectsMiddleware

Request = Callable[[], Awaitable[object]]


class _Nothing:
    """Takes whatever comes."""

    async def send_batch(self, events: Sequence[AuditEvent]) -> None:
        pass


class _Stuck:
    """Never returns: what is journaled stays on disk, as in the queues that nobody reads."""

    async def send_batch(self, events: Sequence[AuditEvent]) -> None:
        await asyncio.get_running_loop().create_future()


def _event(number: int) -> AuditEvent:
    return audit("order.create", actor=1, target="order:1", metadata={"n": number})


async def _scope(fx: SideEffects) -> None:
    """Leaving the block waits for the commit."""
    async with fx.scope():
        for number in range(EVENTS):
            after(_event(number))


async def _emit(fx: SideEffects) -> None:
    """Each event is waited for by itself."""
    for number in range(EVENTS):
        await fx.emit(_event(number))


def _asgi(fx: SideEffects) -> Request:
    """The adapter without a server: the response's first message is held until the commit."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number in range(EVENTS):
            after(_event(number))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        pass

    served = SideEffectsMiddleware(app, effects=fx)
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "GET"}
    scope |= {"path": "/", "query_string": b"", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    return lambda: served(dict(scope), receive, send)


@dataclass(slots=True)
class Ours:
    """A row of the table."""

    name: str
    survives: str
    bind: Callable[[SideEffects], Request]
    delivery: Literal["memory", "journal"] = "journal"
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    delivering: bool = False
    remark: str = ""
    _delivered: int = 0

    def opened(self, directory: Path) -> AbstractAsyncContextManager[Request]:
        """A runtime with its journal there, for the length of a block."""
        return self._opened(directory)

    @asynccontextmanager
    async def _opened(self, directory: Path) -> AsyncIterator[Request]:
        sink = _Nothing() if self.delivering else _Stuck()
        options = SinkOptions(delivery=self.delivery, batch=BatchOptions(max_events=500))
        if self.delivery == "memory":  # what does not fit into memory waits on disk, where there is a journal
            options = options.model_copy(update={"buffer": BufferOptions(max_events=1_000_000)})
        fx = SideEffects(
            {"sink": sink},
            {"sink": options},
            runtime=RuntimeOptions(drain_timeout=10.0 if self.delivering else 0.01),
            journal=JournalOptions(path=directory, synchronous=self.synchronous),
        )
        async with fx:
            yield self.bind(fx)
            if self.delivering:
                await fx.flush(timeout=60.0)
            self._delivered = fx.stats().sinks["sink"].delivered
        journal = "" if self.delivery == "memory" else f", synchronous={self.synchronous}"
        does = "takes all" if self.delivering else "hangs"
        self.remark = f'delivery="{self.delivery}"{journal}, a sink that {does}'

    def held(self, directory: Path) -> int:
        """Events that were delivered, or are on disk."""
        if self.delivering:
            return self._delivered
        return sum(_rows(path) for path in directory.glob("*.sqlite") if path.name != "dead.sqlite")


def _rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM event").fetchone()[0]
    finally:
        connection.close()


def _bound(request: Callable[[SideEffects], Awaitable[object]]) -> Callable[[SideEffects], Request]:
    return lambda fx: lambda: request(fx)


OURS = [
    Ours("sidefx, fx.scope()", "power cut", _bound(_scope)),
    Ours("sidefx, fx.scope(), and delivers them", "power cut", _bound(_scope), delivering=True),
    Ours("sidefx, ASGI adapter in process, and delivers", "power cut", _asgi, delivering=True),
    Ours("sidefx, emit() one by one", "power cut", _bound(_emit)),
    Ours("sidefx, fx.scope(), NORMAL", "killed process", _bound(_scope), synchronous="NORMAL"),
    Ours("sidefx, fx.scope(), memory, and delivers", "nothing", _bound(_scope), "memory", delivering=True),
]
