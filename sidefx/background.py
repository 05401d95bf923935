"""A task in nobody's cancel scope, for what must outlive the block or request that started it."""

from __future__ import annotations

import sys
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import anyio

from sidefx.event_loop import asyncio_loop, runs_on_asyncio, soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context

    from anyio.abc import TaskGroup


def start_in(
    context: Context, tasks: TaskGroup, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
) -> None:
    """Starts a task in a context that was captured elsewhere, on another library's event loop perhaps."""
    if (sniffio := sys.modules.get("sniffio")) is not None:  # where it is installed, its mark in the context decides
        library = "asyncio" if runs_on_asyncio() else "trio"
        if context.get(sniffio.current_async_library_cvar) not in {None, library}:
            context.run(sniffio.current_async_library_cvar.set, library)
    context.run(tasks.start_soon, function, *args)


class BackgroundTask:
    """Runs a function beside everything else in this event loop; its owner waits for `finished()`.

    A task group would not do: its cancel scope lies around whoever opened it, so that a cancellation
    of the block would reach the task before the block's owner could drain it.
    """

    def __init__(self, main: Callable[[], Awaitable[None]], *, name: str, context: Context | None = None) -> None:
        """Starts it, in a copy of this context unless it is given another."""
        context = copy_context() if context is None else context
        self._main = main
        self._is_finished = False
        self._waiting: list[Callable[[], object]] = []
        self.error: BaseException | None = None
        if (loop := asyncio_loop()) is not None:
            self._task: Any = loop.create_task(self._run(), name=name, context=context)
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
            self._is_finished = True
            while self._waiting:
                with suppress(RuntimeError):  # the event loop of that one has ended, and with it whoever waited there
                    self._waiting.pop()()

    async def finished(self) -> None:
        """Returns when it has ended, on any event loop; its error, if any, is in `error`."""
        ended, soon = anyio.Event(), soon_in_this_loop()
        self._waiting.append(lambda: soon(ended.set))
        if not self._is_finished:  # looked at after appending: it ends meanwhile and finds us, or we find that it has
            await ended.wait()
