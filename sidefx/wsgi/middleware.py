"""`SideEffectsMiddleware`: wraps an app, and starts the runtime with its first request."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING

from sidefx.runtime import SideEffects
from sidefx.scope import enter_scope, is_recording
from sidefx.signals import exit_on_sigterm
from sidefx.wsgi.body import observed
from sidefx.wsgi.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger("sidefx.wsgi")


class SideEffectsMiddleware:
    """Runs what `after()` schedules once the server has closed the response.

    `app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, config="sidefx.toml")` with Flask,
    `application = SideEffectsMiddleware(get_wsgi_application(), config=...)` with Django.

    The runtime runs in a thread, and starts with the first request of a process: of each worker where a
    server forks them, never in their master. It is drained when the process ends, by SIGTERM as well.

    Args:
        app: the WSGI app.
        config: path of the TOML file; by default `SIDEFX_CONFIG`, else `sidefx.toml`. It is read here, so that
            a mistake keeps the worker from starting.
        effects: a runtime of one's own instead; one that runs is used as it is.

    Raises:
        ConfigError: the file has mistakes; all of them.
        TypeError: both `config` and `effects` were given.
    """

    def __init__(
        self, app: WSGIApplication, *, config: str | Path | None = None, effects: SideEffects | None = None
    ) -> None:
        if config is not None and effects is not None:
            msg = "SideEffectsMiddleware takes config= or effects=, not both"
            raise TypeError(msg)
        self.app = app
        self._config = config
        self._effects = effects
        self._starts: dict[int, Future[None]] = {}
        """The start that is going on, by process: one that forks meanwhile leaves its own behind."""
        if not is_recording():
            self.effects  # noqa: B018 - read now, so that a mistake is found now
            exit_on_sigterm()  # here, in the main thread: the first request may come in another, which cannot

    @property
    def effects(self) -> SideEffects:
        """The runtime.

        Raises:
            ConfigError: it was made under a test's recording, and the file has mistakes.
        """
        if self._effects is None:
            self._effects = SideEffects.from_toml(self._config)
        return self._effects

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serves one request."""
        exchange = Exchange(self._ready_effects().engine, environ, start_response)
        before = enter_scope(exchange.scope)
        try:
            iterable = self.app(environ, exchange.start_response)
        except BaseException as error:
            exchange.raised(error)
            try:
                exchange.secure_rest(error)
            finally:
                exchange.end()
            raise
        finally:
            enter_scope(before)
        return observed(exchange, iterable, environ)

    def _ready_effects(self) -> SideEffects:
        if is_recording():  # a test looks at what is scheduled: nothing has to run, or to be configured
            return self._effects or SideEffects(name="recorded")
        effects = self.effects
        if not effects.engine.accepting:
            self._start(effects)
        return effects

    def _start(self, effects: SideEffects) -> None:
        """Starts it once for all requests that are first at the same time; what goes wrong, each of them raises."""
        process = os.getpid()
        mine: Future[None] = Future()
        start = self._starts.setdefault(process, mine)
        if start is not mine:
            start.result()
            return
        try:
            if not effects.running:  # another thread has just done it; or its owner drains it, and it takes no more
                effects.start_blocking()
            start.set_result(None)
        except BaseException as error:
            _log.error("sidefx could not start: %s", error)  # the message is the page to read
            start.set_exception(error)
            raise
        finally:
            del self._starts[process]
