"""Functions of the user's, and templates, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar, TypeVarTuple, cast

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

_MOST = 40
"""At once, the ones that hang included: further calls wait, within the lane's `timeout`."""


class DaemonThreads:
    """Runs a call in a thread of its own; one that hangs keeps its place, and never the process."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_MOST)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """What the function returns or raises; a cancelled caller leaves the thread behind."""
        places, loop = self._places, asyncio.get_running_loop()
        await places.acquire()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def settle(outcome: tuple[Any, BaseException | None]) -> None:
            places.release()
            if not ended.done():
                ended.set_result(outcome)

        def work() -> None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = function(*args), None
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(settle, outcome)

        try:
            threading.Thread(target=copy_context().run, args=(work,), name="sidefx email", daemon=True).start()
        except BaseException:
            places.release()
            raise
        result, error = await ended
        if error is not None:
            raise error
        return cast("T", result)
