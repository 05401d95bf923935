"""`Caretaker`: a runtime's life where the server tells of no start and of no end."""

from __future__ import annotations

import logging
import threading
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

import anyio

from sidefx import signals
from sidefx.background import BackgroundTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidefx.effect import Effect
    from sidefx.engine import Engine

_log = logging.getLogger("sidefx.asgi")


class Caretaker:
    """Starts the runtime with the first request, and sees to it that no event loop ends with effects in it.

    A test client may run an event loop for one request alone, so an answered request is kept until its effects have
    settled. One that comes while another is being kept shows that the loop lasts: from then on none is kept, and
    what is there when the server is told to end is drained before that.

    Requests on several event loops at once share a runtime on one of them. What another one releases at the very
    moment in which that loop ends is lost, and listed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._starting: BackgroundTask | None = None
        self._deciding = threading.Lock()  # who starts it: first requests may come on several event loops
        self._warned = False
        self._kept: set[anyio.CancelScope] = set()
        self._lasts = False
        self._ending = False

    async def request_came(self) -> None:
        """Starts the runtime unless it is running.

        Raises:
            SinkStartError: a sink could not be opened.
        """
        if self._kept and self._engine.here and not self._ending:
            self._lasts = True
            for bounds in self._kept:
                bounds.cancel()
        await self.started()

    async def started(self) -> None:
        """Returns when the runtime runs.

        Raises:
            SinkStartError: a sink could not be opened.
        """
        if self._engine.accepting:
            return
        with self._deciding:
            if (starting := self._starting) is None:
                if self._engine.running:  # somebody else is starting it, or draining it
                    return
                self._warn()
                # in nobody's context, and nobody's to cancel: it is not of the request that happens to be the first
                name = f"sidefx start {self._engine.name}"
                starting = self._starting = BackgroundTask(self._start, name=name, context=Context())
        await starting.finished()
        if starting.error is not None:
            raise starting.error

    async def revive(self) -> None:
        """Starts the runtime once more for an answered request, where it ran on an event loop that has ended before."""
        try:
            await self.started()
        except Exception as error:  # noqa: BLE001 - the client has its response; what is lost is listed by the runtime
            _log.error("sidefx could not start again: %s", error)

    async def hold(self, effects: Sequence[Effect]) -> None:
        """Keeps an answered request, whose effects have been released, while its event loop may end with it."""
        if self._lasts or not self._engine.here:
            await self._engine.hold(effects)
            return
        seconds = self._engine.options.drain_timeout
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + seconds) as bounds:
            self._kept.add(bounds)
            try:
                await self._engine.settled()
            finally:
                self._kept.discard(bounds)

    # --- the end of the process, as `sidefx.signals` sees it ------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether there is anything to drain."""
        return self._engine.accepting and self._engine.busy

    def settle_then(self, callback: Callable[[], object]) -> None:
        """Drains what there is now and calls it; the requests that the server still ends are kept by themselves."""
        self._ending, self._lasts = True, False
        self._engine.settle_then(callback)

    # --- the start --------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._lasts = self._ending = False
        self._kept.clear()
        try:
            await self._engine.start()
            signals.drain_first(self)
            self._engine.at_end = partial(signals.no_longer, self)
        finally:
            self._starting = None

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "this server runs no ASGI lifespan, or none that reaches this app: sidefx starts with the first "
                "request and is drained, within %g s, when the process is told to end or exits; as long as requests "
                "come one by one, each is kept after its response until its effects have settled",
                self._engine.options.drain_timeout,
            )
