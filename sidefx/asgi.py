"""The ASGI adapter: a scope per request, closed when the response is over, and the runtime's life cycle.

It is pure ASGI (https://asgi.readthedocs.io/en/stable/specs/main.html) and imports no framework.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from http.cookies import CookieError, SimpleCookie
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl

import anyio

from sidefx.errors import ResponseOverError
from sidefx.events import uuid7
from sidefx.report import summary_of
from sidefx.request import Client, Fields, Headers, RequestInfo, sane_request_id, sane_traceparent
from sidefx.runtime import SideEffects
from sidefx.scope import Scope, enter_scope, is_recording, running_effect

if TYPE_CHECKING:
    from pathlib import Path

    from sidefx.request import Outcome

ASGIScope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("sidefx.asgi")

_DEFAULT_CONFIG = "sidefx.toml"
_FIRST_ERROR_STATUS = 400
_USER_AGENT_CHARACTERS = 512
_SWITCHING_PROTOCOLS = 101


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

    def __init__(
        self, app: ASGIApp, *, config: str | Path | None = None, effects: SideEffects | None = None
    ) -> None:
        if config is not None and effects is not None:
            msg = "SideEffectsMiddleware takes config= or effects=, not both"
            raise TypeError(msg)
        self.app = app
        self._config = config
        self._effects = effects
        self._in_lifespan = False
        self._started_by_request = False
        self._starting = anyio.Lock()

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
            await _Lifespan(self, receive, send).run(scope)
        elif scope["type"] in {"http", "websocket"}:
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        effects = await self._ready_effects()
        exchange = _Exchange(effects, scope, receive, send)
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
            if error is not None:  # the server answers for the app once this has unwound: nothing may wait here
                exchange.scope.close(succeeded=succeeded)
            elif self._started_by_request and effects.running and not is_recording():
                await effects.finish(exchange.scope, succeeded=succeeded)
            elif released := exchange.scope.close(succeeded=succeeded, held=True):
                await effects.hold(released)

    async def _ready_effects(self) -> SideEffects:
        if is_recording():  # a test looks at what is scheduled: nothing has to run, or to be configured
            return self._effects or SideEffects(name="recorded")
        effects = self.effects
        if not effects.running and not self._in_lifespan:
            await self._start_by_request(effects)
        return effects

    async def _start_by_request(self, effects: SideEffects) -> None:
        """The server has told of no start-up and will tell of no shutdown: the requests themselves wait."""
        if not self._started_by_request:
            self._started_by_request = True
            _log.warning(
                "this server runs no ASGI lifespan: sidefx starts with the first request, and each request is kept "
                "after its response until its effects have settled, for up to %g s",
                effects.options.drain_timeout,
            )
        async with self._starting:
            if not effects.running:
                await effects.start()

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


class _Exchange:
    """One request and its response, or one websocket: observes both, and changes neither."""

    def __init__(self, effects: SideEffects, scope: ASGIScope, receive: Receive, send: Send) -> None:
        self.scope = Scope(effects, make_request=self._request_info)
        self._asgi_scope = scope
        self._path = scope["path"]
        self._root_path = scope.get("root_path", "")
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._status: int | None = None
        self._bytes = 0
        self._trailers = False
        self._complete = False
        self._over = False
        self._disconnected = False
        self._send_error: OSError | None = None
        self._outcome: Outcome = "unknown"

    async def receive(self) -> Message:
        """Passes on what the server says."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._complete:
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Passes on what the app says.

        Raises:
            ResponseOverError: an effect called it; the response has gone.
        """
        if self._over and running_effect.get() is not None:
            msg = "an effect tried to send a part of the response, which is over; effects cannot change it"
            raise ResponseOverError(msg)
        final = self._observe(message)
        try:
            await self._send(message)
        except OSError as error:  # ASGI 2.4: the client has gone
            self._disconnected = True
            self._complete = False
            self._send_error = error
            raise
        finally:
            if final:
                self._ended = time.perf_counter()

    def _observe(self, message: Message) -> bool:
        """Takes down what the message says; True where it ends the response."""
        if self._complete:
            return False
        kind = message["type"]
        if kind in {"http.response.start", "websocket.http.response.start"}:
            self._status = message["status"]
            self._trailers = message.get("trailers", False)
        elif kind in {"http.response.body", "websocket.http.response.body"}:
            self._bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False) and not self._trailers
        elif kind == "http.response.pathsend":
            self._complete = not self._trailers
        elif kind == "http.response.trailers":
            self._complete = not message.get("more_trailers", False)
        elif kind == "websocket.accept":
            self._status = _SWITCHING_PROTOCOLS
        elif kind == "websocket.close" and self._status is None:
            self._status = 403  # https://asgi.readthedocs.io/en/stable/specs/www.html#close-send-event
        return self._complete

    def end(self, error: BaseException | None) -> bool:
        """The app has returned or raised: fills in the outcome, and says whether it was a success."""
        self._over = True
        self._ended = self._ended or time.perf_counter()
        left = self._disconnected and not self._complete
        raised = isinstance(error, Exception) and not (left and _caused_by(error, self._send_error))
        websocket = self._asgi_scope["type"] == "websocket"
        if raised:
            self._outcome = "errored"
        elif left:
            self._outcome = "disconnected"
        elif self._complete or (websocket and error is None):
            self._outcome = "complete"
        if self.scope.request_made and self.scope.request is not None:
            self._fill_in(self.scope.request)
        if websocket:
            return error is None
        sent = self._status is not None and self._status < _FIRST_ERROR_STATUS
        return sent and not raised and (self._complete or left)

    def _fill_in(self, request: RequestInfo) -> None:
        request._complete(  # noqa: SLF001 - the one place that may
            route=_route(self._asgi_scope, self._root_path),
            status=self._status,
            bytes_sent=self._bytes,
            duration=None if self._ended is None else self._ended - self._started,
            outcome=self._outcome,
        )

    def _request_info(self) -> RequestInfo:
        scope = self._asgi_scope
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        client = scope.get("client")
        agent = headers.get("user-agent")
        info = RequestInfo.model_construct(
            request_id=sane_request_id(headers.get("x-request-id")) or str(uuid7()),
            method=scope.get("method", ""),
            path=self._path,
            route=_route(scope, self._root_path),
            client=None if client is None else Client(*client[:2]),
            user_agent=None if agent is None else agent[:_USER_AGENT_CHARACTERS],
            traceparent=sane_traceparent(headers.get("traceparent")),
            query=Fields(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)),
            headers=headers,
            cookies=MappingProxyType(_cookies(headers)),
        )
        if self._over:
            self._fill_in(info)
        return info


def _route(scope: ASGIScope, root_path: str) -> str | None:
    """The route's template, under the mounts that the request went through.

    FastAPI and Starlette leave the route in the scope, Litestar its template; others leave nothing.
    """
    template = getattr(scope.get("route"), "path", None) or scope.get("path_template")
    if not isinstance(template, str):
        return None
    mounts = scope.get("root_path", "").removeprefix(root_path)
    return f"{mounts}{template}"


def _cookies(headers: Headers) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            name, separator, value = pair.strip().partition("=")
            if separator:
                cookies[name.strip()] = _unquoted(value.strip())
    return cookies


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return SimpleCookie(f"value={value}")["value"].value
    except (CookieError, KeyError):
        return value


def _caused_by(error: BaseException | None, cause: BaseException | None) -> bool:
    """Whether `cause` is `error`, in its chain, or in a group of it."""
    if cause is None:
        return False
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if current is cause:
            return True
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        waiting += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
    return False


class _Lifespan:
    """The server's lifespan, with the runtime started before the app's and drained before its shutdown."""

    def __init__(self, middleware: SideEffectsMiddleware, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._receive = receive
        self._send = send
        self._startup: Message | None = None
        self._app_answered = False
        self._effects: SideEffects | None = None

    async def run(self, scope: ASGIScope) -> None:
        """Serves the whole lifespan; the app's own messages pass through, and its state."""
        self._startup = await self._receive()
        async with AsyncExitStack() as stack:
            try:
                self._effects = await stack.enter_async_context(self._middleware.lifespan())
            except Exception as error:  # noqa: BLE001 - told to the server, which prints it and ends
                _log.error("sidefx could not start: %s", error)  # noqa: TRY400 - the message is the page to read
                await self._send({"type": "lifespan.startup.failed", "message": f"sidefx could not start: {error}"})
                return
            await self._run_app(scope)

    async def _run_app(self, scope: ASGIScope) -> None:
        try:
            await self._middleware.app(scope, self._receive_for_app, self._send_for_app)
        except Exception as error:
            if self._app_answered:
                raise
            # a server takes such an app for one without lifespan, and so does sidefx
            _log.info("the app has no ASGI lifespan, sidefx answers in its place: %s", summary_of(error))
        if not self._app_answered:
            await self._send({"type": "lifespan.startup.complete"})
            await self._next_message()
            await self._send({"type": "lifespan.shutdown.complete"})

    async def _receive_for_app(self) -> Message:
        if self._startup is not None:
            startup, self._startup = self._startup, None
            return startup
        return await self._next_message()

    async def _next_message(self) -> Message:
        message = await self._receive()
        if message["type"] == "lifespan.shutdown" and self._effects is not None:
            await self._effects.drain()  # before the app hears of it: its resources still exist
        return message

    async def _send_for_app(self, message: Message) -> None:
        self._app_answered = True
        await self._send(message)
