"""Sinks as the runtime calls them: on this loop, in a worker thread, or hosted on an asyncio loop elsewhere."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
import anyio.from_thread

from sidefx.sink import is_async_callable
from sidefx.threads import soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from anyio.abc import BlockingPortal

    from sidefx.threads import DaemonThreads


class Caller(Protocol):
    """Calls a method of a sink where that sink lives."""

    async def __call__(self, function: Callable[..., Any], *args: Any) -> Any: ...


def in_threads(threads: DaemonThreads) -> Caller:
    """Calls asynchronous methods on the running loop and synchronous ones in a worker thread."""

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        if is_async_callable(function):
            return await function(*args)
        return await threads.run(function, *args)

    return call


class AsyncioHost:
    """An asyncio loop in a thread of its own, for sinks whose library knows no other.

    The thread is daemonic, and a call that is cancelled here is cancelled there without waiting for it.
    """

    def __init__(self, threads: DaemonThreads) -> None:
        self._threads = threads
        self._manager: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops the loop, if any sink has made it start."""
        if self._manager is not None:
            with anyio.CancelScope(shield=True):
                await self._threads.run(self._manager.__exit__, None, None, None)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls it over there, and returns or raises what it does."""
        if self._portal is None:
            self._manager = anyio.from_thread.start_blocking_portal("asyncio", name="sidefx-asyncio-host")
            self._portal = await self._threads.run(self._manager.__enter__)
        future: Future[Any] = self._portal.start_task_soon(in_threads(self._threads), function, *args)
        done = anyio.Event()
        soon = soon_in_this_loop()
        future.add_done_callback(lambda _: soon(done.set))
        try:
            await done.wait()
        except BaseException:
            future.cancel()
            raise
        return future.result()


@asynccontextmanager
async def opened(sink: object, call: Caller) -> AsyncIterator[None]:
    """Enters the sink's context manager, asynchronous or synchronous, if it has one, and leaves it."""
    kind = type(sink)
    enter = getattr(kind, "__aenter__", None) or getattr(kind, "__enter__", None)
    leave = getattr(kind, "__aexit__", None) or getattr(kind, "__exit__", None)
    if enter is None or leave is None or inspect.isroutine(sink):
        yield
        return
    await call(_bound(enter, sink))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(call, _bound(leave, sink), *(None, None, None))
        yield


def _bound(function: Any, sink: object) -> Any:
    return function.__get__(sink)
