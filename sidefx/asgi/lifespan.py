"""`Lifespan`: the server's start and end, with the runtime's in between."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Protocol

import anyio

from sidefx.asgi.impatience import interruptible, unterminated
from sidefx.errors import SidefxError
from sidefx.report import indented_traceback, summary_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sidefx.asgi.protocol import ASGIApp, ASGIScope, Message, Receive, Send
    from sidefx.runtime import SideEffects

_log = logging.getLogger("sidefx.asgi")


class Owner(Protocol):
    """Whose lifespan it is: the middleware."""

    app: ASGIApp

    def lifespan(self) -> AbstractAsyncContextManager[SideEffects | None]:
        """Runs the runtime while the block lasts."""
        ...

    async def before_shutdown(self, effects: SideEffects, timeout: float | None = None) -> None:
        """Called before the app hears of the shutdown; `timeout` is in seconds, by default `drain_timeout`."""
        ...


class Lifespan:
    """The server's lifespan, with the runtime started before the app's and drained before its shutdown."""

    def __init__(self, owner: Owner, receive: Receive, send: Send) -> None:
        self._owner = owner
        self._receive = receive
        self._send = send
        self._startup: Message | None = None
        self._app_answered = False
        self._effects: SideEffects | None = None
        self._runtime = AsyncExitStack()
        self._ending = ExitStack()

    async def run(self, scope: ASGIScope) -> None:
        """Serves the whole lifespan; the app's own messages pass through, and its state."""
        self._startup = await self._receive()
        with self._ending:
            await self._live(scope)

    async def _live(self, scope: ASGIScope) -> None:
        async with self._runtime:
            error = await self._start()
            if error is None:
                await self._run_app(scope)
            else:
                await self._give_up(error)

    async def _start(self) -> Exception | None:
        try:
            self._effects = await self._runtime.enter_async_context(self._owner.lifespan())
        except Exception as error:  # noqa: BLE001 - told to the server
            return error  # raised from elsewhere: where a server's `send` raises (Hypercorn), ours is not to hang on it
        return None

    async def _give_up(self, error: Exception) -> None:
        """Tells the server all that there is to read; it prints that, and ends."""
        expected = isinstance(error, SidefxError)
        if not expected:
            _log.error("sidefx could not start: %s%s", summary_of(error), indented_traceback(error))
        page = f"sidefx could not start: {error if expected else summary_of(error)}"
        await self._send({"type": "lifespan.startup.failed", "message": page})
        if not _prints_what_is_raised(self._send):
            raise error  # test clients wait for no message, but for this

    async def _run_app(self, scope: ASGIScope) -> None:
        try:
            await self._owner.app(scope, self._receive_for_app, self._send_for_app)
        except Exception as error:
            if self._app_answered:
                raise
            # a server takes such an app for one without lifespan, and so does sidefx
            _log.info("the app has no ASGI lifespan, sidefx answers in its place: %s", summary_of(error))
        if not self._app_answered:
            await self._send({"type": "lifespan.startup.complete"})
            await self._next_message()
            await self._runtime.aclose()
            await self._send({"type": "lifespan.shutdown.complete"})

    async def _receive_for_app(self) -> Message:
        if self._startup is not None:
            startup, self._startup = self._startup, None
            return startup
        return await self._next_message()

    async def _next_message(self) -> Message:
        message = await self._receive()
        if message["type"] == "lifespan.shutdown":
            self._ending.enter_context(unterminated())
            if self._effects is not None:
                await self._drain(self._effects)  # before the app hears of it: its resources still exist
        return message

    async def _drain(self, effects: SideEffects) -> None:
        try:
            with interruptible() as bounds:
                await self._owner.before_shutdown(effects)
        except anyio.get_cancelled_exc_class():  # the server's own patience has ended (Hypercorn's `shutdown_timeout`)
            with anyio.CancelScope(shield=True):
                await self._owner.before_shutdown(effects, timeout=0)
            raise
        if bounds.cancelled_caught:
            _log.warning("interrupted: shutdown does not wait for effects any longer")
            await self._owner.before_shutdown(effects, timeout=0)

    async def _send_for_app(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):  # it takes every connection for a request
            msg = f"the app sends {message['type']} in its lifespan"
            raise RuntimeError(msg)
        self._app_answered = True
        if message["type"] != "lifespan.startup.complete":
            await self._runtime.aclose()  # a server that has heard of the end cancels the lifespan, or ends its loop
        await self._send(message)


def _prints_what_is_raised(send: Send) -> bool:
    """Whether the server prints the error of a lifespan that has failed, though it has printed its message."""
    return getattr(send, "__module__", "").startswith("granian.")
