"""`Entry`: an event's place in the journal; and `Commit`, by which one knows that it is there."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import anyio

from sidefx.threads import soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

Soon: TypeAlias = "Callable[..., object]"
"""Has something called in one event loop, from any thread."""


class Commit:
    """What is written to disk together: done once it is there, or has failed with an error."""

    __slots__ = ("_events", "_waiting", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: str | None = None
        """Why it is not on disk, once it is done; None where it is."""
        self._events: dict[Soon, anyio.Event] = {}
        self._waiting: deque[tuple[Soon, Callable[[], object]]] = deque()

    def finish(self, error: str | None = None) -> None:
        """Tells all who wait, each in its own event loop; all of one loop are told in one go."""
        self.error = error
        self.done = True
        self._tell()

    def then(self, soon: Soon, call: Callable[[], object]) -> None:
        """Has it called when this is done, by `soon`. From any thread."""
        self._waiting.append((soon, call))
        if self.done:  # looked at after appending: whoever finishes it meanwhile finds us, or we do
            self._tell()

    async def finished(self) -> None:
        """Returns when it is done."""
        if not self.done:
            soon = soon_in_this_loop()
            if (event := self._events.get(soon)) is None:  # one for all who wait in this event loop
                event = self._events[soon] = anyio.Event()
                self.then(soon, event.set)
            await event.wait()

    def finished_blocking(self, timeout: float | None = None) -> bool:
        """The same for a thread without event loop, within so many seconds; whether it is done."""
        if not self.done:
            event = threading.Event()
            self.then(_call, event.set)
            event.wait(timeout)
        return self.done

    def _tell(self) -> None:
        by_loop: dict[Soon, list[Callable[[], object]]] = {}
        while self._waiting:
            with suppress(IndexError):  # another thread tells as well
                soon, call = self._waiting.popleft()
                by_loop.setdefault(soon, []).append(call)
        for soon, calls in by_loop.items():
            with suppress(RuntimeError):  # that loop has ended, and with it whoever waited
                soon(_call_all, calls)


def _call(function: Callable[..., object], *args: object) -> None:
    function(*args)


def _call_all(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        call()


class Entry:
    """One event in one segment, with a row for each of its sinks."""

    __slots__ = ("commit", "id", "segment", "sinks")

    def __init__(self, segment: object, id_: int, sinks: tuple[str, ...], commit: Commit) -> None:
        self.segment = segment
        """The journal's file that it is in; nobody else's business."""
        self.id = id_
        self.sinks = sinks
        self.commit = commit

    @property
    def held(self) -> bool:
        """Whether it is on disk."""
        return self.commit.done and self.commit.error is None
