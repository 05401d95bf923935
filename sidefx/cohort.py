"""`Cohort`: what was accepted between two flushes, so that a flush knows what to wait for."""

from __future__ import annotations

import anyio


class Cohort:
    """Counts its members that have not settled; a flush closes it and waits until none is left.

    What an effect schedules joins the effect's own cohort, so that a flush waits for nested
    effects without waiting for those that arrive after it.
    """

    __slots__ = ("_empty", "open", "retired")

    def __init__(self) -> None:
        self.open = 0
        self.retired = False
        """Nobody waits for it any more: what an old member schedules belongs to those of its own time."""
        self._empty: anyio.Event | None = None

    def join(self, members: int = 1) -> None:
        """So many more are open."""
        self.open += members

    def leave(self, members: int = 1) -> None:
        """So many have settled."""
        self.open -= members
        if self.open == 0 and self._empty is not None:
            self._empty.set()
            self._empty = None

    async def settled(self) -> None:
        """Returns once nobody is left."""
        while self.open:
            if self._empty is None:
                self._empty = anyio.Event()
            await self._empty.wait()
