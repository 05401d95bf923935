"""`Window`: equal purges within a time go once, and none that came after is answered by one that began before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import anyio

from sidefx_sinks.cache.store import Target, Wanted

Clear: TypeAlias = Callable[[Wanted], Awaitable[Mapping[Target, Exception]]]

LONGEST = 60.0
"""Seconds: the most that a purge may be held back."""
_MAX_REMEMBERED = 10_000
"""Targets whose last purge is remembered (one that is forgotten is purged at once), and events that were cut off."""


@dataclass(eq=False, slots=True)
class _Held:
    """What one call is still waiting for."""

    wanted: dict[Target, Collection[UUID]]


class Window:
    """Clears a target at once where it has not been cleared for `seconds`, else at the end of that time.

    What comes meanwhile waits for that end together. A purge that has already begun answers nobody who comes after its
    beginning: the cache may have been filled again in between, with what that caller has just made out of date. So an
    event is delivered when a purge that began after the event came has succeeded, and not before.
    """

    def __init__(
        self,
        seconds: float,
        clear: Clear,
        *,
        clock: Callable[[], float] = anyio.current_time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._seconds = seconds
        self._clear_now = clear
        self._clock = clock
        self._sleep = sleep
        self._began: OrderedDict[Target, float] = OrderedDict()  # of each one's last success; oldest first
        self._held: list[_Held] = []
        self._cut_off: OrderedDict[UUID, None] = OrderedDict()  # events that could not wait: they wait no second time
        self._turn = anyio.Lock()

    async def clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        """Clear what may be cleared at once, and then what has to wait; the failures of both."""
        self._forget_old()
        held = {
            target: askers
            for target, askers in wanted.items()
            if target in self._began and self._cut_off.keys().isdisjoint(askers)
        }
        pause = max((self._began[target] for target in held), default=0.0) + self._seconds - self._clock()
        at_once = {target: askers for target, askers in wanted.items() if target not in held}
        if not held:
            return await self._clear_and_note(at_once)
        waiting = _Held(dict(held))
        self._held.append(waiting)
        try:
            failures = dict(await self._clear_and_note(at_once)) if at_once else {}
            await self._sleep(max(pause, 0.0))
            async with self._turn:
                if waiting.wanted:
                    failures |= await self._clear_for_all(waiting)
        except anyio.get_cancelled_exc_class():
            self._cut_off.update((asker, None) for askers in waiting.wanted.values() for asker in askers)
            while len(self._cut_off) > _MAX_REMEMBERED:
                self._cut_off.popitem(last=False)
            raise
        finally:
            self._held.remove(waiting)
        return failures

    async def _clear_for_all(self, mine: _Held) -> Mapping[Target, Exception]:
        """Clear what this call waits for, on behalf of all who have come until now and wait for the same."""
        others = list(self._held)
        wanted = {target: {asker for held in others for asker in held.wanted.get(target, ())} for target in mine.wanted}
        failures = await self._clear_and_note(wanted)
        for target in wanted:
            if target not in failures:
                for held in others:
                    held.wanted.pop(target, None)
        return failures

    async def _clear_and_note(self, wanted: Wanted) -> Mapping[Target, Exception]:
        began = self._clock()
        failures = await self._clear_now(wanted)
        for target in wanted:
            if target not in failures:
                self._began[target] = began
                self._began.move_to_end(target)
        while len(self._began) > _MAX_REMEMBERED:
            self._began.popitem(last=False)
        return failures

    def _forget_old(self) -> None:
        over = self._clock() - self._seconds
        while self._began and next(iter(self._began.values())) <= over:
            self._began.popitem(last=False)
