"""What a lane has done so far, in numbers that add up."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidefx.settled import Result

_REMEMBERED_DURATIONS = 1_024


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles of the latest 1,024 attempts, in seconds."""

    p50: float
    p90: float
    p99: float


class Ledger:
    """Counts; `accepted` is at every moment what has settled, is queued and is in flight together."""

    __slots__ = ("_durations", "accepted", "delivered", "dropped", "expired", "in_flight", "rejected", "retried")

    def __init__(self) -> None:
        self.accepted = 0
        self.delivered = 0
        self.rejected = 0
        self.expired = 0
        self.dropped: Counter[str] = Counter()
        self.in_flight = 0
        self.retried = 0
        self._durations: deque[float] = deque(maxlen=_REMEMBERED_DURATIONS)

    def settle(self, result: Result, reason: str, count: int) -> None:
        """So many have ended so; the reason matters where they were dropped."""
        if result == "delivered":
            self.delivered += count
        elif result == "rejected":
            self.rejected += count
        elif result == "expired":
            self.expired += count
        else:
            self.dropped[reason] += count

    def took(self, seconds: float) -> None:
        """One attempt took so long."""
        self._durations.append(seconds)

    def latency(self) -> Latency | None:
        """None before the first attempt has ended."""
        if not self._durations:
            return None
        if len(self._durations) == 1:
            return Latency(*[self._durations[0]] * 3)
        cuts = statistics.quantiles(self._durations, n=100, method="inclusive")
        return Latency(p50=cuts[49], p90=cuts[89], p99=cuts[98])
