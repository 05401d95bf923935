"""`Lifespan`: the server's start and end, with the runtime's in between."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

from sidefx.report import summary_of

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

    async def before_shutdown(self, effects: SideEffects) -> None:
        """Called before the app hears of the shutdown."""
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

    async def run(self, scope: ASGIScope) -> None:
        """Serves the whole lifespan; the app's own messages pass through, and its state."""
        self._startup = await self._receive()
        async with self._runtime:
            try:
                self._effects = await self._runtime.enter_async_context(self._owner.lifespan())
            except Exception as error:  # noqa: BLE001 - told to the server, which prints it and ends
                _log.error("sidefx could not start: %s", error)  # the message is the page to read
                await self._send({"type": "lifespan.startup.failed", "message": f"sidefx could not start: {error}"})
                return
            await self._run_app(scope)

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
        if message["type"] == "lifespan.shutdown" and self._effects is not None:
            # before the app hears of it: its resources still exist
            await self._owner.before_shutdown(self._effects)
        return message

    async def _send_for_app(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):  # it takes every connection for a request
            msg = f"the app sends {message['type']} in its lifespan"
            raise RuntimeError(msg)
        self._app_answered = True
        if message["type"] != "lifespan.startup.complete":
            await self._runtime.aclose()  # a server that has heard of the end cancels the lifespan, or ends its loop
        await self._send(message)
