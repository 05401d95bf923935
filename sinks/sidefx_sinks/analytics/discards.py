"""`Discards`: what the sink did not deliver, counted by reason."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_log = logging.getLogger("sidefx.sinks.analytics")

_ASKED_FOR = frozenset({"no consent", "sampled", "before_send"})
"""Kept back by the user's own rules: worth a line, and no warning."""
LOG_EVERY = 60.0
"""Seconds between two lines of the log."""


@dataclass(frozen=True, slots=True)
class Discard:
    """One line of the discard report."""

    sink: str
    reason: str
    count: int


class Discards:
    """Counts for good, and tells the log at most once a minute, and at the end."""

    def __init__(self, sink: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._now = now
        self._counts: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._told_at: float | None = None

    def add(self, counts: Mapping[str, int]) -> None:
        """So many more, by reason."""
        self._counts.update(counts)
        self._untold.update(counts)
        if self._untold and (self._told_at is None or self._now() - self._told_at >= LOG_EVERY):
            self.tell()

    def tell(self) -> None:
        """Log what has not been told yet."""
        if self._untold:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(self._untold.items()))
            level = logging.INFO if _ASKED_FOR.issuperset(self._untold) else logging.WARNING
            _log.log(level, "analytics (%s) has not delivered: %s", self._sink, counted)
            self._untold.clear()
            self._told_at = self._now()

    def report(self) -> tuple[Discard, ...]:
        """By reason, in alphabetical order."""
        return tuple(Discard(self._sink, reason, count) for reason, count in sorted(self._counts.items()))
