"""What can be seen from outside of the adapter: what it passes on, and when a request is over."""

from __future__ import annotations

from dataclasses import dataclass, field

import sidefx
from sidefx.asgi import ASGIApp, ASGIScope, Message, Receive, Send


@dataclass
class Sight:
    """What a `Witness` saw of one request."""

    receives: int = 0
    sent: list[Message] = field(default_factory=list)
    error: BaseException | None = None
    request_before: object = None
    request_after: object = None


class Witness:
    """Stands between the server and the adapter."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.over: dict[str, Sight] = {}
        self.lifespan: list[str] = []
        """What the adapter has told the server."""
        self.reason = ""
        """Why it could not start, if it has said so."""
        self.told: list[str] = []
        """What the server has told the adapter, from outside of requests."""

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        sight = Sight(request_before=sidefx.request())

        async def seen_receive() -> Message:
            sight.receives += 1
            message = await receive()
            if scope["type"] == "lifespan":
                self.told.append(message["type"])
            return message

        async def seen_send(message: Message) -> None:
            if scope["type"] == "lifespan":
                self.lifespan.append(message["type"])
                self.reason = message.get("message", self.reason)
            sight.sent.append(message)
            await send(message)

        try:
            await self.app(scope, seen_receive, seen_send)
        except BaseException as error:
            sight.error = error
            raise
        finally:
            sight.request_after = sidefx.request()
            if scope["type"] != "lifespan":
                self.over[case_of(scope)] = sight


def case_of(scope: ASGIScope) -> str:
    """The `X-Request-ID` of a connection."""
    return str(dict(scope["headers"])[b"x-request-id"].decode())
