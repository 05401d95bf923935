"""`SideEffectsMiddleware`: wraps an app, and owns the runtime's start and end."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from sidefx.asgi.caretaker import Caretaker
from sidefx.asgi.exchange import Exchange
from sidefx.asgi.lifespan import Lifespan
from sidefx.asgi.open_requests import OpenRequests
from sidefx.runtime import SideEffects
from sidefx.scope import enter_scope, is_recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidefx.asgi.protocol import ASGIApp, ASGIScope, Receive, Send


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
        self._caretaker: Caretaker | None = None
        self._requests = OpenRequests()

    @property
    def effects(self) -> SideEffects:
        """The runtime; the configuration is read when it is first asked for.

        Raises:
            ConfigError: the file has mistakes; all of them.
        """
        if self._effects is None:
            self._effects = SideEffects.from_toml(self._config)
        return self._effects

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one connection, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await Lifespan(self, receive, send).run(scope)
        elif scope["type"] in {"http", "websocket"}:
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        effects = await self._ready_effects()
        exchange = Exchange(effects.engine, scope, receive, send)
        self._requests.add(exchange)
        before = enter_scope(exchange.scope)
        error: BaseException | None = None
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            enter_scope(before)
            await self._release(effects, exchange, error)

    async def _release(self, effects: SideEffects, exchange: Exchange, error: BaseException | None) -> None:
        """The request is over: its effects start, and it waits where somebody must."""
        succeeded = exchange.end(error)
        caretaker = None if is_recording() else self._caretaker
        # where the app raised before its response was whole, the server answers once this has unwound: do not wait
        answered = isinstance(error, Exception) and exchange.complete
        waits = error is None or (answered and caretaker is not None)
        try:
            if error is None or isinstance(error, Exception):
                await exchange.secure_rest(succeeded=succeeded)
            if waits and caretaker is not None:
                await caretaker.revive()
        finally:  # also where the server does not let it wait
            released = exchange.scope.close(succeeded=succeeded, held=waits)
            self._requests.discard(exchange)
        if waits and released:
            await (caretaker or effects.engine).hold(released)

    async def _ready_effects(self) -> SideEffects:
        if is_recording():  # a test looks at what is scheduled: nothing has to run, or to be configured
            return self._effects or SideEffects(name="recorded")
        effects = self.effects
        if self._caretaker is None and not effects.engine.accepting and not self._in_lifespan:
            self._caretaker = Caretaker(effects.engine)
        if self._caretaker is not None:
            await self._caretaker.request_came()
        return effects

    async def before_shutdown(self, effects: SideEffects, timeout: float | None = None) -> None:
        """Drains the runtime; where somebody else owns it, and goes on using it, waits for what it has now."""
        seconds = effects.options.drain_timeout if timeout is None else timeout
        deadline = anyio.current_time() + seconds
        await self._requests.over(seconds)
        left = max(0.0, deadline - anyio.current_time())
        engine = effects.engine
        if self._in_lifespan:
            await engine.drain(left)
        elif engine.accepting and engine.here:  # on another loop, which may wait for this one, it is for its owner
            with suppress(TimeoutError):
                await engine.flush(left)

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
        self._in_lifespan, self._caretaker = True, None
        before = enter_scope(effects.engine.open_scope())
        try:
            yield effects
        finally:
            enter_scope(before)
            await effects.stop()
            self._in_lifespan = False
