"""`OpenRequests`: those that are being served; what they schedule is yet to come."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from sidefx.event_loop import soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidefx.asgi.exchange import Exchange

_log = logging.getLogger("sidefx.asgi")


class OpenRequests:
    """The exchanges that have not ended.

    A server that has waited long enough cancels its requests and tells of its shutdown in the same breath,
    before they have come to their end.
    """

    def __init__(self) -> None:
        self._open: set[Exchange] = set()
        self._none_left: Callable[[], object] | None = None

    def add(self, exchange: Exchange) -> None:
        """It has begun."""
        self._open.add(exchange)

    def discard(self, exchange: Exchange) -> None:
        """It has ended, and its effects have been released. Safe from any thread."""
        self._open.discard(exchange)
        if not self._open and self._none_left is not None:
            self._none_left()

    async def over(self, seconds: float) -> None:
        """Returns when all have ended, or that time is up."""
        ended, soon = anyio.Event(), soon_in_this_loop()
        self._none_left = lambda: soon(ended.set)
        try:
            with anyio.move_on_after(seconds):
                if self._open:
                    await ended.wait()
        finally:
            self._none_left = None
        if self._open:
            _log.error("%d request(s) had not ended at shutdown; what they scheduled is lost", len(self._open))
