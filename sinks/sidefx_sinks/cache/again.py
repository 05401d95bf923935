"""`SecondDelete`: clears once more what was cleared, a moment later.

A reader that missed before the first delete, and read the old value from a replica or an open transaction, can write
it into the cache after the delete. The second one clears that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable

from sidefx_sinks.cache.store import Target
from sidefx_sinks.cache.window import Clear

_log = logging.getLogger("sidefx")

LONGEST = 60.0
"""Seconds: the most that a second delete may wait, and a shutdown for it."""
_MAX_PENDING = 10_000
"""Targets; beyond it the oldest has its second delete left out."""
_PATIENCE = 30.0
"""Seconds that one second delete may take."""


class SecondDelete:
    """Clears targets `seconds` after their first delete, on asyncio, in a task of its own that `stop` waits for.

    One that is cleared again meanwhile waits anew: that first delete was the second of the one before. A second
    delete is no delivery: one that fails is logged, and not tried again.
    """

    def __init__(self, seconds: float, clear: Clear) -> None:
        self._seconds = seconds
        self._clear = clear
        self._due: OrderedDict[Target, float] = OrderedDict()  # soonest first
        self._left_out = 0
        self._under_way = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False

    def start(self) -> None:
        """Begin; the task is this object's until `stop`."""
        self._closing = False
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sidefx-cache-second-delete")

    def later(self, targets: Iterable[Target]) -> None:
        """Clear them again in a while."""
        due = asyncio.get_running_loop().time() + self._seconds
        for target in targets:
            self._due[target] = due
            self._due.move_to_end(target)
        while len(self._due) > _MAX_PENDING:
            self._due.popitem(last=False)
            self._left_out += 1
        self._wake.set()

    async def stop(self) -> None:
        """Wait until what is pending has had its second delete, each at its time; cancelled, it is left out."""
        task, self._task = self._task, None
        self._closing = True
        self._wake.set()
        try:
            if task is not None:
                await task
        finally:
            if missing := len(self._due) + self._left_out + self._under_way:
                _log.warning("cache: %d second deletes were left out; the first ones were delivered", missing)
            self._due.clear()
            self._left_out = self._under_way = 0

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            if not self._due:
                if self._closing:
                    return
                await self._wake.wait()
                continue
            pause = next(iter(self._due.values())) - clock()
            if pause > 0:
                await asyncio.sleep(pause)  # what comes meanwhile is due later
            await self._clear_due(clock())

    async def _clear_due(self, now: float) -> None:
        ready: list[Target] = []
        while self._due and next(iter(self._due.values())) <= now:
            ready.append(self._due.popitem(last=False)[0])
        if not ready:  # cleared meanwhile, so that it is due later
            return
        self._under_way = len(ready)
        try:
            async with asyncio.timeout(_PATIENCE):
                failures = await self._clear(dict.fromkeys(ready, ()))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next ones are to be cleared
            reason: Exception | None = error
            failed = len(ready)
        else:
            reason = next(iter(failures.values()), None)
            failed = len(failures)
        self._under_way = 0  # not where it was cancelled
        if failed:
            _log.warning("cache: %d second deletes failed: %s: %s", failed, type(reason).__name__, reason)
