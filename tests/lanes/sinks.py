"""Sinks that do as they are told, and events to give them."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from sidefx import Event


class Numbered(Event, kind="test.numbered"):
    """An event that tells itself apart."""

    n: int
    text: str = ""


class Other(Event, kind="test.other"):
    """An event of another kind."""

    secret: str = ""


class One:
    """Takes one event at a time; fails, hangs or is slow as told, and remembers each call with its time."""

    def __init__(self, *failures: Exception | None, delay: float = 0.0) -> None:
        self.failures = list(failures)
        self.delay = delay
        self.calls: list[tuple[float, int]] = []
        self.delivered: list[int] = []
        self.cancelled = 0

    @property
    def times(self) -> list[float]:
        """When each call came."""
        return [when for when, _ in self.calls]

    async def send(self, event: Numbered) -> None:
        self.calls.append((anyio.current_time(), event.n))
        try:
            await anyio.sleep(self.delay)
        except BaseException:
            self.cancelled += 1
            raise
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        self.delivered.append(event.n)


class Batches:
    """Takes batches; raises what `fail` makes of one, and remembers each with its time."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.batches: list[list[int]] = []
        self.times: list[float] = []
        self.events: list[Numbered] = []

    async def send_batch(self, events: Sequence[Numbered]) -> None:
        self.batches.append([event.n for event in events])
        self.times.append(anyio.current_time())
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        self.events.extend(events)


class Hung:
    """Never answers."""

    def __init__(self) -> None:
        self.calls = 0

    async def send(self, event: Numbered | Other) -> None:
        self.calls += 1
        await anyio.sleep_forever()
