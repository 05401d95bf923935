"""Forks: none happens while a thread of ours is inside SQLite, and the child forgets what belongs to its parent.

SQLite locks its allocator, among others; a child that inherits such a lock, held by a thread that it has not, waits
for ever at its first call of SQLite, also where that is not ours.
"""

from __future__ import annotations

import os
import threading
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

_PATIENCE = 1.0
"""Seconds that a fork waits for a disk, or for another process that has the dead letters, to answer."""


class Belonging(Protocol):
    """What a process has open, and its child must neither use nor keep."""

    def forget(self) -> None:
        """In a forked child: lets go of it, so that the parent notices nothing."""
        ...


class _Inside(ContextDecorator):
    """Around each use of SQLite, or of what belongs to this process: meanwhile it does not fork. May be nested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._threads = 0
        self._forking = 0
        self._depth = threading.local()
        self._belongings: dict[Belonging, None] = {}

    def __enter__(self) -> Self:
        depth: int = getattr(self._depth, "here", 0)
        if not depth:
            with self._lock:
                while self._forking:
                    self._changed.wait()
                self._threads += 1
        self._depth.here = depth + 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth.here -= 1
        if not self._depth.here:
            with self._lock:
                self._threads -= 1
                if self._forking:
                    self._changed.notify_all()

    def keep(self, belonging: Belonging) -> None:
        """A forked child is to forget it."""
        self._belongings[belonging] = None

    def drop(self, belonging: Belonging) -> None:
        """It is closed."""
        self._belongings.pop(belonging, None)

    # --- around a fork, in the thread that forks ------------------------------------------------------

    def before(self) -> None:
        """Waits until nobody is inside, and lets nobody in."""
        self._lock.acquire()
        self._forking += 1
        here = self._here()
        self._changed.wait_for(lambda: self._threads == here, _PATIENCE)

    def in_parent(self) -> None:
        """All goes on."""
        self._forking -= 1
        self._changed.notify_all()
        self._lock.release()

    def in_child(self) -> None:
        """There is one thread, and nothing belongs to it."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._forking, self._threads = 0, self._here()
        belongings, self._belongings = tuple(self._belongings), {}
        for each in belongings:
            each.forget()

    def _here(self) -> int:
        return 1 if getattr(self._depth, "here", 0) else 0


inside = _Inside()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=inside.before, after_in_parent=inside.in_parent, after_in_child=inside.in_child)
