"""`Cohort`: what was accepted between two flushes, so that a flush knows what to wait for."""

from __future__ import annotations

import anyio


class Cohort:
    """Counts its members that have not settled; a flush closes it and waits until none is left.

    What an effect schedules joins the effect's own cohort, so that a flush waits for nested
    effects without waiting for those that arrive after it.
    """

    __slots__ = ("_empty", "awaited", "open", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        """Whose it is: what an effect of one runtime schedules with another joins a cohort of the other."""
        self.open = 0
        self.awaited = 1
        """By how many: whoever fills it, and each flush. By none, it is retired, and nothing joins it any more."""
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
