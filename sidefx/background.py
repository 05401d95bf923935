"""A task in nobody's cancel scope, for what must outlive the block or request that started it."""

from __future__ import annotations

import sys
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context


def runs_on_asyncio() -> bool:
    """Whether the running event loop is asyncio's."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.current_task() is not None
    except RuntimeError:
        return False


class BackgroundTask:
    """Runs a function beside everything else in this event loop; its owner waits for `finished()`.

    A task group would not do: its cancel scope lies around whoever opened it, so that a cancellation
    of the block would reach the task before the block's owner could drain it.
    """

    def __init__(self, main: Callable[[], Awaitable[None]], *, name: str, context: Context | None = None) -> None:
        """Starts it, in a copy of this context unless it is given another."""
        context = copy_context() if context is None else context
        self._main = main
        self._finished = anyio.Event()
        self.error: BaseException | None = None
        if runs_on_asyncio():
            import asyncio  # noqa: PLC0415 - not under trio

            self._task: Any = asyncio.get_running_loop().create_task(self._run(), name=name, context=context)
        else:
            import trio  # noqa: PLC0415 - not under asyncio

            trio.lowlevel.spawn_system_task(self._run, name=name, context=context)

    async def _run(self) -> None:
        try:
            await self._main()
        except BaseException as error:
            self.error = error
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise  # the event loop itself is ending
        finally:
            self._finished.set()

    async def finished(self) -> None:
        """Returns when it has ended; its error, if any, is in `error`."""
        await self._finished.wait()
