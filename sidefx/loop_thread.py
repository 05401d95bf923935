"""`LoopThread`: an asyncio loop in a thread of its own, for synchronous programs and for sinks that know no other."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class LoopThread:
    """Runs from `start()` to `stop()`; the thread is daemonic, so that a loop which hangs keeps no process alive.

    It holds no generator and no thread pool: a forked child, which has the object but not the thread,
    can forget it without running anything of it.
    """

    def __init__(self, name: str) -> None:
        self._ready: Future[AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def loop(self) -> AbstractEventLoop:
        """The event loop; for after `start()`."""
        return self._ready.result()

    def start(self) -> None:
        """Returns when the loop runs."""
        self._thread.start()
        self._ready.result()

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Runs it there, waits, and returns or raises what it does; an interrupt here cancels it there."""
        import asyncio  # noqa: PLC0415 - programs on trio do not pay for it

        # in none of our context variables, in which libraries have written that this thread is trio's
        future = Context().run(asyncio.run_coroutine_threadsafe, function(*args), self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancels what still runs there, and returns when the thread has ended."""
        with suppress(RuntimeError):  # the loop has ended by itself
            self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        import asyncio  # noqa: PLC0415 - programs on trio do not pay for it

        try:
            asyncio.run(self._until_stopped())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)  # the process is out of file descriptors, say: start() raises it

    async def _until_stopped(self) -> None:
        import asyncio  # noqa: PLC0415 - programs on trio do not pay for it

        self._ended = asyncio.Event()
        self._ready.set_result(asyncio.get_running_loop())
        await self._ended.wait()
