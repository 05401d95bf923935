"""Sinks as the runtime calls them: on this loop, in a worker thread, or hosted on an asyncio loop elsewhere."""

from __future__ import annotations

import inspect
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio

from sidefx.cancellation import must_go_on
from sidefx.errors import SidefxError
from sidefx.event_loop import soon_in_this_loop
from sidefx.loop_thread import LoopThread
from sidefx.scope import current_scope, enter_scope
from sidefx.sink import is_async_callable
from sidefx.tracing import context_here, enter_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future

    from sidefx.threads import DaemonThreads


_log = logging.getLogger("sidefx")

_STOP_SECONDS = 5.0


class Caller(Protocol):
    """Calls a method of a sink where that sink lives."""

    async def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns or raises what the method does."""
        ...


def in_threads(threads: DaemonThreads) -> Caller:
    """Calls asynchronous methods on the running loop and synchronous ones in a worker thread."""

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        if is_async_callable(function):
            return await function(*args)
        outcome = await threads.run(function, *args)
        # a plain function may hand on what an asynchronous one gave it: `def send(self, e): return self._send(e)`
        return await outcome if inspect.isawaitable(outcome) else outcome

    return call


class AsyncioHost:
    """An asyncio loop in a thread of its own, for sinks whose library knows no other.

    The thread is daemonic, and a call that is cancelled here is cancelled there without waiting for it.
    Nothing here waits for that loop but with `await`: a sink that blocks it is not felt on this one.
    """

    def __init__(self, threads: DaemonThreads) -> None:
        self._threads = threads
        self._host: LoopThread | None = None
        self._starting = anyio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops the loop, if any sink has made it start; one that is blocked is left to its thread after a while."""
        if self._host is not None:
            with anyio.move_on_after(_STOP_SECONDS, shield=True) as bounds:
                await self._threads.run(self._host.stop)
            if bounds.cancelled_caught:
                _log.error("the asyncio sinks' event loop did not end within %g s and was given up", _STOP_SECONDS)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls it over there, and returns or raises what it does."""
        import asyncio  # noqa: PLC0415 - only for sinks that need it

        if self._host is None:
            async with self._starting:  # several lanes may make their first call at once
                await self._start()
        assert self._host is not None  # noqa: S101 - it has just been started
        context = Context()  # none of ours, in which libraries have written that this is trio
        context.run(enter_scope, current_scope())
        context.run(enter_context, context_here())
        future = context.run(asyncio.run_coroutine_threadsafe, self._over_there(function, *args), self._host.loop)
        done = anyio.Event()
        soon = soon_in_this_loop()

        def tell(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # our loop has ended, and with it whoever waited
                soon(done.set)

        future.add_done_callback(tell)
        try:
            await done.wait()
        except BaseException:
            future.cancel()
            raise
        return future.result()

    async def _start(self) -> None:
        if self._host is None:
            with anyio.CancelScope(shield=True):  # a matter of milliseconds; half started it could not be stopped
                host = LoopThread("sidefx-asyncio-host")
                await self._threads.run(host.start)
                self._host = host

    async def _over_there(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await in_threads(self._threads)(function, *args)
        except BaseException as error:
            if isinstance(error, Exception) or must_go_on(error):
                raise
            msg = f"the sink raised {type(error).__qualname__}"  # it would end that loop, and every sink with it
            raise SidefxError(msg) from error


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
