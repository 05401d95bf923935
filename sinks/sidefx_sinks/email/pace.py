"""At most so many recipients in a period: what mail providers count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from sidefx import RateLimit


class Pace:
    """Lets transactions pass one after another, each as much later as the one before has recipients.

    The pace is even, without bursts: a transaction that has waited its turn goes whole. Whoever is
    cancelled while it waits takes no place.
    """

    def __init__(self, limit: RateLimit | None) -> None:
        self._seconds_each = 0.0 if limit is None else limit.period / limit.calls
        self._free_at = 0.0
        self._turn = asyncio.Lock()

    def open(self) -> None:
        """Make ready for the loop that runs."""
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def take(self, recipients: int) -> None:
        """Returns when that many recipients may be sent to."""
        if not self._seconds_each:
            return
        async with self._turn:
            await anyio.sleep_until(self._free_at)
            self._free_at = max(self._free_at, anyio.current_time()) + recipients * self._seconds_each
