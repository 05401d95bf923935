"""Quart: the adapter around its `asgi_app`, as Quart wants its middlewares."""

from __future__ import annotations

from typing import Any

import quart

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script, chunks_then_bug, chunks_then_wait


def build(effects: SideEffects, script: Script) -> ASGIApp:
    """Effects are scheduled by the handlers, and nested ones by `after_request`."""
    app = quart.Quart(__name__)
    app.before_serving(script.started)
    app.after_serving(script.stopped)

    @app.route("/ok")
    async def ok() -> str:
        script.schedule()
        return "whole"

    @app.route("/sync")
    def sync() -> str:
        script.schedule()
        return "whole"

    @app.route("/bad")
    async def bad() -> tuple[str, int]:
        script.schedule()
        return "whole", 400

    @app.route("/down")
    async def down() -> tuple[str, int]:
        script.schedule()
        return "whole", 500

    @app.route("/http-exception")
    async def http_exception() -> str:
        script.schedule()
        quart.abort(404)

    @app.route("/boom")
    async def boom() -> str:
        script.schedule()
        raise AppBug

    @app.route("/redirect")
    async def redirect() -> Any:
        script.schedule()
        return quart.redirect("/ok")

    @app.route("/mid-stream")
    async def mid_stream() -> Any:
        script.schedule()
        return chunks_then_bug()

    @app.route("/leave")
    async def leave() -> Any:
        script.schedule()
        return chunks_then_wait()

    @app.post("/items/<int:item>")
    async def place(item: int) -> tuple[str, int]:
        script.schedule()
        return str(item), 201

    @app.route("/nested")
    async def nested() -> str:
        return "whole"

    @app.after_request
    async def nesting(response: Any) -> Any:
        if quart.request.path == "/nested":
            script.schedule_nested()
        return response

    @app.websocket("/chat")
    async def echo() -> None:
        script.schedule()
        while True:
            await quart.websocket.send(script.heard(await quart.websocket.receive()))

    app.asgi_app = SideEffectsMiddleware(app.asgi_app, effects=effects)
    return app


QUART = {
    "quart": Framework(build, unhandled_outcome="complete", redirect_status=302, raises_from_websockets=False),
}
