"""The third stage: what waits for the sink, bounded, with a declared policy beyond the bound."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from sidefx.effect import Effect
    from sidefx.options import BufferOptions


class Buffer:
    """A queue of effects.

    `block` never turns away what comes with a holder, somebody who then waits for `room()`: each
    holder waits for its own, so that what stands beyond the bound is bounded by their number. Where
    there is nobody to hold, it takes up to twice its size.
    """

    def __init__(self, options: BufferOptions) -> None:
        self._max = options.max_events
        self._when_full = options.when_full
        self._queue: deque[Effect] = deque()
        self._room: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def blocks(self) -> bool:
        """Whether whoever adds to it is to wait for `room()`."""
        return self._when_full == "block"

    @property
    def full(self) -> bool:
        """Whether something would be dropped for one more."""
        return len(self._queue) >= self._max and not self.blocks

    def put(self, effect: Effect, *, held: bool) -> Effect | None:
        """Adds it, and returns what had to be dropped for it: the effect itself, an older one or None."""
        if len(self._queue) >= self._max:
            if self._when_full == "drop_oldest":
                self._queue.append(effect)
                return self._oldest()
            if self._when_full == "drop_newest" or (not held and len(self._queue) >= 2 * self._max):
                return effect
        self._queue.append(effect)
        return None

    def _oldest(self) -> Effect:
        """Removes what has to make room."""
        return self._queue.popleft()

    def take(self) -> Effect:
        """Removes and returns the oldest."""
        effect = self._queue.popleft()
        if self._room is not None and len(self._queue) <= self._max:
            self._room.set()
            self._room = None
        return effect

    async def room(self) -> None:
        """Returns once no more waits than the bound allows."""
        while len(self._queue) > self._max:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()
