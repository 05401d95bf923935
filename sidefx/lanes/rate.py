"""The fifth stage: at most so many calls of the sink in a period."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidefx.options import RateLimit


class RateLimiter:
    """A sliding window: in no period of that length are there more calls than allowed."""

    def __init__(self, limit: RateLimit) -> None:
        self._period = limit.period
        self._calls: deque[float] = deque(maxlen=limit.calls)

    def reserve(self, now: float) -> float:
        """Takes the next free place, and says in how many seconds it comes."""
        free_at = now
        if len(self._calls) == self._calls.maxlen:
            free_at = max(now, self._calls[0] + self._period)
        self._calls.append(free_at)
        return free_at - now
