"""The sixth stage: a sink that keeps failing is left alone for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

if TYPE_CHECKING:
    from sidefx.options import BreakerOptions

State: TypeAlias = Literal["closed", "open", "half-open"]


class Breaker:
    """Opens after `failures` failed attempts in a row; after `reset` seconds it lets one through to see.

    It sheds nothing: whoever may not pass waits.
    """

    def __init__(self, options: BreakerOptions) -> None:
        self._failures_to_open = options.failures
        self._reset = options.reset
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        self._changed = anyio.Event()

    @property
    def state(self) -> State:
        """`half-open` while one attempt is let through to see."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._probing else "open"

    async def admit(self) -> bool:
        """Returns when an attempt may be made, and whether that is to see whether the sink works again.

        It must be followed by `succeed`, `fail` or `give_back`.
        """
        while self._opened_at is not None:
            now = anyio.current_time()
            if not self._probing and now >= self._opened_at + self._reset:
                self._probing = True
                return True
            until = float("inf") if self._probing else self._opened_at + self._reset
            with anyio.CancelScope(deadline=until):
                await self._changed.wait()
        return False

    def succeed(self) -> None:
        """The sink answered."""
        self._failures = 0
        self._probing = False
        if self._opened_at is not None:
            self._opened_at = None
            self._notify()

    def fail(self, now: float) -> bool:
        """The attempt failed; True where that has opened the breaker, which was not open before."""
        self._failures += 1
        opens = self._opened_at is None and self._failures >= self._failures_to_open
        if opens or self._probing:
            self._opened_at = now
            self._probing = False
            self._notify()
        return opens

    def give_back(self) -> None:
        """The attempt was broken off and says nothing of the sink."""
        if self._probing:
            self._probing = False
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
