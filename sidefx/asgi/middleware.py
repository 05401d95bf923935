"""`SideEffectsMiddleware`: wraps an app, and owns the runtime's start and end."""

from __future__ import annotations

import functools
import logging
import os
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING

from sidefx.asgi.exchange import Exchange
from sidefx.asgi.lifespan import Lifespan
from sidefx.background import BackgroundTask
from sidefx.runtime import SideEffects
from sidefx.scope import enter_scope, is_recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidefx.asgi.protocol import ASGIApp, ASGIScope, Receive, Send

_log = logging.getLogger("sidefx.asgi")

_DEFAULT_CONFIG = "sidefx.toml"


class SideEffectsMiddleware:
    """Runs what `after()` schedules once the response is over.

    Wrap it around the whole app, `SideEffectsMiddleware(app, config="sidefx.toml")`, or add it as a
    framework's middleware. It starts the runtime with the app and drains it before the app's own shutdown.

    Args:
        app: the ASGI app.
        config: path of the TOML file; by default `SIDEFX_CONFIG`, else `sidefx.toml`. It is read at start-up.
        effects: a runtime of one's own instead; the middleware starts it where it is not running, and stops
            what it has started.

    Raises:
        TypeError: both `config` and `effects` were given.
    """

    def __init__(self, app: ASGIApp, *, config: str | Path | None = None, effects: SideEffects | None = None) -> None:
        if config is not None and effects is not None:
            msg = "SideEffectsMiddleware takes config= or effects=, not both"
            raise TypeError(msg)
        self.app = app
        self._config = config
        self._effects = effects
        self._in_lifespan = False
        self._started_by_request = False
        self._starting: BackgroundTask | None = None

    @property
    def effects(self) -> SideEffects:
        """The runtime; the configuration is read when it is first asked for.

        Raises:
            ConfigError: the file has mistakes; all of them.
        """
        if self._effects is None:
            path = self._config or os.environ.get("SIDEFX_CONFIG") or _DEFAULT_CONFIG
            self._effects = SideEffects.from_toml(path)
        return self._effects

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serves one connection, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await Lifespan(self, receive, send).run(scope)
        elif scope["type"] in {"http", "websocket"}:
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        effects = await self._ready_effects()
        exchange = Exchange(effects, scope, receive, send)
        before = enter_scope(exchange.scope)
        error: BaseException | None = None
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            enter_scope(before)
            succeeded = exchange.end(error)
            # where the app raised before its response was whole, the server answers once this has unwound: do not wait
            answered = error is None or (isinstance(error, Exception) and exchange.complete)
            if answered and self._started_by_request and effects.running and not is_recording():
                await effects.finish(exchange.scope, succeeded=succeeded)
            elif error is not None:
                exchange.scope.close(succeeded=succeeded)
            elif released := exchange.scope.close(succeeded=succeeded, held=True):
                await effects.hold(released)

    async def _ready_effects(self) -> SideEffects:
        if is_recording():  # a test looks at what is scheduled: nothing has to run, or to be configured
            return self._effects or SideEffects(name="recorded")
        effects = self.effects
        if not effects.accepting and not self._in_lifespan:
            await self._start_by_request(effects)
        return effects

    async def _start_by_request(self, effects: SideEffects) -> None:
        """The server has told of no start-up and will tell of no shutdown: the requests themselves wait."""
        starting = self._starting
        if starting is None:
            if effects.running:  # somebody else is starting it, or draining it
                return
            self._warn_of_no_lifespan(effects)
            # in nobody's context, and nobody's to cancel: it is not of the request that happens to be the first
            start = functools.partial(self._start, effects)
            starting = self._starting = BackgroundTask(start, name=f"sidefx start {effects.name}", context=Context())
        await starting.finished()
        if starting.error is not None:
            raise starting.error

    def _warn_of_no_lifespan(self, effects: SideEffects) -> None:
        if not self._started_by_request:
            self._started_by_request = True
            _log.warning(
                "this server runs no ASGI lifespan, or none that reaches this app: sidefx starts with the first "
                "request, and each request is kept after its response until its effects have settled, for up to %g s",
                effects.options.drain_timeout,
            )

    async def _start(self, effects: SideEffects) -> None:
        try:
            await effects.start()
        finally:
            self._starting = None

    async def before_shutdown(self, effects: SideEffects) -> None:
        """Drains the runtime; where somebody else owns it, and goes on using it, waits for what it has now."""
        if self._in_lifespan:
            await effects.drain()
        elif effects.accepting:
            with suppress(TimeoutError):
                await effects.flush(effects.options.drain_timeout)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[SideEffects | None]:
        """Runs the runtime while the block lasts, unless somebody else does; None under a test's recording."""
        if is_recording():
            yield None
            return
        effects = self.effects
        if effects.running:
            yield effects
            return
        await effects.start()
        self._in_lifespan, self._started_by_request = True, False
        before = enter_scope(effects.open_scope())
        try:
            yield effects
        finally:
            enter_scope(before)
            await effects.stop()
            self._in_lifespan = False
