"""The fourth stage: how many events travel together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidefx.effect import Effect
    from sidefx.lanes.buffer import Buffer
    from sidefx.options import BatchOptions


class Unfit(Exception):  # noqa: N818 - a finding, not an error of ours
    """An event that no batch can carry, with the reason."""


class Batcher:
    """Closes a batch at `max_events`, `max_bytes` or `linger`, whichever comes first."""

    def __init__(
        self,
        buffer: Buffer,
        options: BatchOptions,
        *,
        max_event_bytes: int | None,
        reject: Callable[[Effect, str], None],
    ) -> None:
        self._buffer = buffer
        self._options = options
        self._max_event_bytes = max_event_bytes
        self._measures = options.max_bytes is not None or max_event_bytes is not None
        self._reject = reject
        self._batch: list[Effect] = []
        self._bytes = 0
        self._carried_over: tuple[Effect, int] | None = None
        self._one_at_a_time = anyio.Lock()
        self._arrival = anyio.Event()
        self._awake = False
        self._hurry = 0

    def __len__(self) -> int:
        """Events taken from the buffer that have not left in a batch yet."""
        return len(self._batch) + (self._carried_over is not None)

    def wake(self) -> None:
        """Something is in the buffer, or there is no time to linger."""
        if not self._awake:
            self._awake = True
            self._arrival.set()

    def hurry(self) -> None:
        """From now on no batch lingers; undone by `relax`."""
        self._hurry += 1
        self.wake()

    def relax(self) -> None:
        """Undoes one `hurry`."""
        self._hurry -= 1

    async def next(self) -> list[Effect]:
        """Waits for events, and returns the next batch, in order; never an empty one.

        When cancelled, it loses nothing: what it has collected is there for `leftovers()`.
        """
        async with self._one_at_a_time:
            closes_at: float | None = None
            while not self._fill():
                if self._batch:
                    closes_at = closes_at or anyio.current_time() + self._options.linger
                    if self._hurry or anyio.current_time() >= closes_at:
                        break
                await self._arrive(closes_at)
            return self._close()

    def leftovers(self) -> list[Effect]:
        """Removes and returns all that has not left in a batch, the buffer's content included."""
        effects = self._close()
        if self._carried_over is not None:
            effects.append(self._carried_over[0])
            self._carried_over = None
        while len(self._buffer):
            effects.append(self._buffer.take())
        return effects

    def _close(self) -> list[Effect]:
        batch, self._batch, self._bytes = self._batch, [], 0
        return batch

    async def _arrive(self, until: float | None) -> None:
        self._arrival, self._awake = anyio.Event(), False
        if until is None:
            await self._arrival.wait()
        else:
            with anyio.CancelScope(deadline=until):
                await self._arrival.wait()

    def _fill(self) -> bool:
        """Moves what fits from the buffer into the batch; True where that closes it."""
        while len(self._batch) < self._options.max_events:
            if (next_ := self._take()) is None:
                return False
            effect, size = next_
            if effect.attempts:  # it was under way when a process ended: alone, it can only harm itself
                if self._batch:
                    self._carried_over = effect, size
                else:
                    self._batch.append(effect)
                return True
            if self._batch and self._options.max_bytes is not None and self._bytes + size > self._options.max_bytes:
                self._carried_over = effect, size
                return True
            self._batch.append(effect)
            self._bytes += size
        return True

    def _take(self) -> tuple[Effect, int] | None:
        if self._carried_over is not None:
            carried, self._carried_over = self._carried_over, None
            return carried
        while len(self._buffer):
            effect = self._buffer.take()
            try:
                return effect, self._measure(effect) if self._measures else 0
            except Unfit as finding:
                self._reject(effect, str(finding))
        return None

    def _measure(self, effect: Effect) -> int:
        event: Any = effect.event
        try:
            size = effect.size or len(type(event).__pydantic_serializer__.to_json(event, warnings=False))
            effect.size = size  # other lanes have the same effect
        except Exception as error:  # a serializer is a user's code: what it raises must not end the lane
            msg = f"cannot be written as JSON: {type(error).__name__}"
            raise Unfit(msg) from error
        if self._max_event_bytes is not None and size > self._max_event_bytes:
            msg = f"is {size:,} bytes of JSON, above max_event_bytes = {self._max_event_bytes:,}"
            raise Unfit(msg)
        return size
