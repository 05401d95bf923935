"""No framework: an ASGI callable."""

from __future__ import annotations

from typing import Any

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script
from tests.asgi.servers import body, start

STATUSES = {"/bad": 400, "/down": 500, "/http-exception": 404, "/redirect": 307, "/items/7": 201}


def bare(effects: SideEffects, script: Script) -> ASGIApp:
    """A plain ASGI callable, without lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in {"http", "websocket"}
        await (http if scope["type"] == "http" else websocket)(scope, receive, send)

    async def http(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/nested":
            script.schedule_nested()
        else:
            script.schedule()
        if path == "/boom":
            raise AppBug
        location = [("location", "/ok")] if path == "/redirect" else []
        await send(start(STATUSES.get(path, 200), *location))
        if path in {"/mid-stream", "/leave"}:
            await send(body(b"first", more_body=True))
        if path == "/mid-stream":
            raise AppBug
        while path == "/leave" and (await receive())["type"] != "http.disconnect":
            pass
        if path != "/leave":
            await send(body(b"whole"))

    async def websocket(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        script.schedule()
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": script.heard(message["text"])})

    return SideEffectsMiddleware(app, effects=effects)


BARE = {"bare": Framework(bare, unhandled_status=None, has_lifespan=False)}
