"""The third stage where there is a journal: a window over it. What does not fit into memory waits on disk."""

from __future__ import annotations

import math
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from sidefx.lanes.buffer import Buffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidefx.cohort import Cohort
    from sidefx.effect import Effect
    from sidefx.entry import Commit
    from sidefx.options import BufferOptions

_READ_AT_ONCE = 128
_TRY_AGAIN_AFTER = 1.0
"""Seconds until rows that could not be read are read again."""


class Archive(Protocol):
    """What keeps events on disk: the journal, as a lane sees it."""

    def keep(self, effects: Iterable[tuple[Effect, tuple[str, ...]]]) -> Commit | None:
        """Writes events, each for these sinks, and gives each effect its entry; None where nothing can be written."""
        ...

    def count_degraded(self, count: int, reason: str | None) -> None:
        """So many events are in memory only."""
        ...

    async def lease(self, sink: str, effects: Sequence[Effect]) -> None:
        """Counts an attempt of each; to be awaited before the sink is called."""
        ...

    def settle(self, sink: str, effects: Sequence[Effect]) -> None:
        """These have left their lane for good."""
        ...

    async def fetch(self, sink: str, segment: object, ids: Sequence[int]) -> tuple[list[Effect], int]:
        """The effects of these rows, and how many of them are unreadable, and dead letters by now.

        Raises:
            JournalError: the disk does not answer as it should.
        """
        ...


@dataclass(slots=True, eq=False)
class Stretch:
    """Rows that wait on disk, in order, with the cohort that waits for them."""

    segment: object
    ids: array[int]
    cohort: Cohort | None
    start: int = 0
    """How many of them have been read."""

    def __len__(self) -> int:
        return len(self.ids) - self.start


class Window(Buffer):
    """A buffer that never drops what is on disk: beyond its bound, only the numbers of the rows stay in memory.

    What is in memory alone — its sink's delivery is "memory", or the journal has failed — has the bound and the
    policy of any buffer.
    """

    def __init__(self, options: BufferOptions, sink: str) -> None:
        super().__init__(options)
        self._sink = sink
        self._stretches: deque[Stretch] = deque()
        self.on_disk = 0
        """Rows that wait there and are not in memory."""
        self.coming: dict[Effect, bool] = {}
        """Effects that are being written, and those that came after them; whether somebody waits for room for each."""
        self._wanted = anyio.Event()
        self._aside: deque[Stretch] = deque()
        self._try_again_at = math.inf

    def _oldest(self) -> Effect:
        """The oldest that is in memory alone: what is on disk is never dropped."""
        oldest = next(effect for effect in self._queue if not self.holds(effect))  # at least the one that has just come
        self._queue.remove(oldest)
        return oldest

    def holds(self, effect: Effect) -> bool:
        """Whether it is on disk for this sink."""
        entry = effect.entry
        return entry is not None and self._sink in entry.sinks and entry.held

    def has_no_room(self) -> bool:
        """Whether what is on disk is to stay there: memory is full, or others wait there already."""
        return bool(self._stretches) or len(self._queue) >= self._max

    def shelve(self, segment: object, ids: Sequence[int], cohort: Cohort | None) -> None:
        """These wait on disk; they have joined that cohort."""
        last = self._stretches[-1] if self._stretches else None
        if last is not None and last.segment is segment and last.cohort is cohort:
            last.ids.extend(ids)
        else:
            self._stretches.append(Stretch(segment, array("Q", ids), cohort))
        self.on_disk += len(ids)
        self._look()

    def admit(self, effect: Effect) -> None:
        """Takes it into memory: it is on disk, or has come from there."""
        self._queue.append(effect)

    def take(self) -> Effect:
        """Removes and returns the oldest in memory."""
        effect = super().take()
        self._look()
        return effect

    async def wanted(self) -> tuple[Stretch, array[int]]:
        """Waits until memory has room for rows that wait on disk: the next ones. Tell `came`, or `set_aside`, then."""
        while not self._has_room():
            self._wanted = anyio.Event()
            with anyio.CancelScope(deadline=self._try_again_at):
                await self._wanted.wait()
            self._look_aside()
        self._look_aside()
        first = self._stretches[0]
        count = min(_READ_AT_ONCE, self._max - len(self._queue))
        return first, first.ids[first.start : first.start + count]

    def came(self, count: int) -> None:
        """So many of the first stretch have been read."""
        first = self._stretches[0]
        first.start += count
        if not len(first):
            self._stretches.popleft()
        self.on_disk -= count

    def set_aside(self) -> None:
        """The first stretch cannot be read: others go on meanwhile, and it is tried again later."""
        self._aside.append(self._stretches.popleft())
        self._try_again_at = min(self._try_again_at, anyio.current_time() + _TRY_AGAIN_AFTER)

    def _look_aside(self) -> None:
        if self._aside and anyio.current_time() >= self._try_again_at:
            self._stretches.extend(self._aside)
            self._aside.clear()
            self._try_again_at = math.inf

    def written(self) -> list[Effect]:
        """Removes and returns those that were being written and are not any more."""
        done = [effect for effect in self.coming if effect.entry is not None and effect.entry.commit.done]
        for effect in done:
            del self.coming[effect]
        return done

    def leave(self) -> int:
        """Nothing runs any more: what is on disk stays there, and nobody waits for it. How many rows that is."""
        for stretch in (*self._stretches, *self._aside):
            if stretch.cohort is not None:
                stretch.cohort.leave(len(stretch))
        self._stretches.clear()
        self._aside.clear()
        return self.on_disk

    def _has_room(self) -> bool:
        return bool(self._stretches) and len(self._queue) <= self._max // 2

    def _look(self) -> None:
        if self._stretches and self._has_room():
            self._wanted.set()
