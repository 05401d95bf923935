"""Litestar: the adapter around it, and as its middleware with the runtime in its lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import litestar
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler, WebsocketListenerRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from litestar.response import Redirect, Response, Stream

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script, chunks_then_bug, chunks_then_wait


def _handlers(script: Script) -> list[HTTPRouteHandler | WebsocketListenerRouteHandler]:
    async def nesting() -> AsyncIterator[str]:
        yield "whole"
        script.schedule_nested()

    @litestar.get("/ok")
    async def ok() -> str:
        script.schedule()
        return "whole"

    @litestar.get("/sync", sync_to_thread=True)
    def sync() -> str:
        script.schedule()
        return "whole"

    @litestar.get("/bad", status_code=400)
    async def bad() -> str:
        script.schedule()
        return "whole"

    @litestar.get("/down")
    async def down() -> Response[str]:
        script.schedule()
        return Response("whole", status_code=500)

    @litestar.get("/http-exception")
    async def http_exception() -> None:
        script.schedule()
        raise NotFoundException

    @litestar.get("/boom")
    async def boom() -> None:
        script.schedule()
        raise AppBug

    @litestar.get("/redirect")
    async def redirect() -> Redirect:
        script.schedule()
        return Redirect("/ok")

    @litestar.get("/mid-stream")
    async def mid_stream() -> Stream:
        script.schedule()
        return Stream(chunks_then_bug())

    @litestar.get("/leave")
    async def leave() -> Stream:
        script.schedule()
        return Stream(chunks_then_wait())

    @litestar.post("/items/{item:int}")
    async def place(item: FromPath[int]) -> int:
        script.schedule()
        return item

    @litestar.get("/nested", dependencies={"given": Provide(nesting)})
    async def nested(given: NamedDependency[str]) -> str:
        return given

    @litestar.websocket_listener("/chat", on_accept=script.schedule)
    async def echo(data: str) -> str:
        return script.heard(data)

    return [ok, sync, bad, down, http_exception, boom, redirect, mid_stream, leave, place, nested, echo]


def _app(script: Script, **options: Any) -> litestar.Litestar:
    return litestar.Litestar(
        _handlers(script),
        logging_config=None,  # it would be that of the whole process
        openapi_config=None,
        **options,
    )


def around(effects: SideEffects, script: Script) -> ASGIApp:
    """The adapter around the whole app."""
    return SideEffectsMiddleware(
        _app(script, on_startup=[script.started], on_shutdown=[script.stopped]), effects=effects
    )


def inside(effects: SideEffects, script: Script) -> ASGIApp:
    """The adapter as a middleware of the app, which hears of no lifespan: the app starts the runtime."""

    @asynccontextmanager
    async def lifespan(app: litestar.Litestar) -> AsyncIterator[None]:
        script.started()
        yield
        script.stopped()

    middleware = DefineMiddleware(SideEffectsMiddleware, effects=effects)
    return _app(script, middleware=[middleware], lifespan=[lifespan, effects])


_PECULIAR: dict[str, Any] = {
    "unhandled_outcome": "complete",
    "redirect_status": 302,
    "route": "/items/{item}",
    "raises_from_websockets": False,
}

LITESTAR = {
    "litestar": Framework(around, **_PECULIAR),
    "litestar, as its middleware": Framework(inside, **_PECULIAR),
}
