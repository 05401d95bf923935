"""The collector: the HTTP server that the analytics sink sends to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from sidefx.demo.faults import ServerSwitch

if TYPE_CHECKING:
    from starlette.requests import Request


class Collector:
    """Keeps what comes in, once for each id, as a real one would; `app` is its ASGI application."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        """By id, in the order of their arrival."""
        self.switch = ServerSwitch(failing="503 Service Unavailable")
        self.app = Starlette(routes=[Route("/", self.take, methods=["POST"])])

    async def take(self, request: Request) -> Response:
        """`POST /`: `{"batch": [{"id", "event", …}]}`, the format of the preset `json`."""
        batch = (await request.json())["batch"]
        if not await self.switch.works():
            return Response(status_code=503)
        for event in batch:
            self.events.setdefault(event["id"], event)
        return Response(status_code=202)
