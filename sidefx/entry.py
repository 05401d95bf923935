"""`Entry`: where events are in the journal; and `Commit`, by which one knows that they are there."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio

from sidefx.event_loop import asyncio_loop, soon_in_this_loop

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

Soon: TypeAlias = "Callable[..., object]"
"""Has something called in one event loop, from any thread."""


class Commit:
    """What is written to disk together: done once it is there, or has failed with an error."""

    __slots__ = ("_ring", "_waiting", "done", "error")

    def __init__(self, ring: Callable[[], object] | None = None) -> None:
        """`ring` wakes whoever writes it, once somebody waits: then the interpreter's lock is soon free for it."""
        self._ring = ring
        self.done = False
        self.error: str | None = None
        """Why it is not on disk, once it is done; None where it is."""
        self._waiting: deque[tuple[Soon, Callable[[], object]]] = deque()

    def finish(self, error: str | None = None) -> None:
        """Tells all who wait, each in its own event loop; all of one loop are told in one go."""
        self.error = error
        self.done = True
        self._tell()

    def then(self, soon: Soon, call: Callable[[], object]) -> None:
        """Has it called when this is done, by `soon`. From any thread."""
        self._waiting.append((soon, call))
        self.hurry()
        if self.done:  # looked at after appending: whoever finishes it meanwhile finds us, or we do
            self._tell()

    def hurry(self) -> None:
        """Has it written now. From any thread."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring()

    async def finished(self) -> None:
        """Returns when it is done."""
        if not self.done:
            if (loop := asyncio_loop()) is not None:  # as below, in a fifth of the time: a response waits here
                future = loop.create_future()
                self.then(loop.call_soon_threadsafe, partial(_resolve, future))
                await future
            else:
                event = anyio.Event()
                self.then(soon_in_this_loop(), event.set)
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


def _resolve(future: Future[None]) -> None:
    if not future.done():  # whoever waited may have been cancelled
        future.set_result(None)


def _call(function: Callable[..., object], *args: object) -> None:
    function(*args)


def _call_all(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        call()


class Entry:
    """Where events are that were kept together for the same sinks."""

    __slots__ = ("commit", "segment", "sinks")

    def __init__(self, segment: object, sinks: tuple[str, ...], commit: Commit) -> None:
        self.segment = segment
        """The journal's file that they are in; nobody else's business."""
        self.sinks = sinks
        self.commit = commit

    @property
    def held(self) -> bool:
        """Whether they are on disk."""
        return self.commit.done and self.commit.error is None
