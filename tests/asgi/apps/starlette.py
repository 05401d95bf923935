"""Starlette: the adapter around it, as its middleware, above `BaseHTTPMiddleware`, and around a mounted app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script, chunks_then_bug, chunks_then_wait


def _routes(script: Script) -> list[BaseRoute]:
    async def answer(request: Any, make: Callable[[], Any]) -> Any:
        script.schedule()
        return make()

    def sync(request: Any) -> Any:
        script.schedule()
        return PlainTextResponse("whole")

    def http_exception() -> Any:
        raise HTTPException(404)

    def boom() -> Any:
        raise AppBug

    async def nested(request: Any) -> Any:
        return PlainTextResponse("whole")

    async def nesting(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        script.schedule_nested()
        return response

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        script.schedule()
        with suppress(WebSocketDisconnect):
            while True:
                await websocket.send_text(script.heard(await websocket.receive_text()))

    answers: dict[str, Callable[[], Any]] = {
        "/ok": lambda: PlainTextResponse("whole"),
        "/bad": lambda: PlainTextResponse("whole", 400),
        "/down": lambda: PlainTextResponse("whole", 500),
        "/http-exception": http_exception,
        "/boom": boom,
        "/redirect": lambda: RedirectResponse("/ok"),
        "/mid-stream": lambda: StreamingResponse(chunks_then_bug()),
        "/leave": lambda: StreamingResponse(chunks_then_wait()),
    }
    return [
        *(Route(path, partial(answer, make=make)) for path, make in answers.items()),
        Route("/sync", sync),
        Route("/items/{item}", partial(answer, make=lambda: PlainTextResponse("whole", 201)), methods=["POST"]),
        Route("/nested", nested, middleware=[Middleware(BaseHTTPMiddleware, dispatch=nesting)]),
        WebSocketRoute("/chat", echo),
    ]


def _lifespan(script: Script) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        script.started()
        yield
        script.stopped()

    return lifespan


async def pass_on(request: Any, call_next: Any) -> Any:
    """What `BaseHTTPMiddleware` does where it does nothing."""
    return await call_next(request)


def around(effects: SideEffects, script: Script) -> ASGIApp:
    """The adapter around the whole app."""
    return SideEffectsMiddleware(Starlette(routes=_routes(script), lifespan=_lifespan(script)), effects=effects)


def inside(effects: SideEffects, script: Script) -> ASGIApp:
    """The adapter added as a middleware of the app."""
    app = Starlette(routes=_routes(script), lifespan=_lifespan(script))
    app.add_middleware(SideEffectsMiddleware, effects=effects)
    return app


def base_http(effects: SideEffects, script: Script) -> ASGIApp:
    """`BaseHTTPMiddleware` below the adapter."""
    app = Starlette(routes=_routes(script), lifespan=_lifespan(script))
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return SideEffectsMiddleware(app, effects=effects)


def mounted(effects: SideEffects, script: Script) -> ASGIApp:
    """The endpoints in a sub-application, with the adapter around the outer one."""
    inner = Starlette(routes=_routes(script))
    outer = Starlette(routes=[Mount("/", app=inner)], lifespan=_lifespan(script))
    return SideEffectsMiddleware(outer, effects=effects)


STARLETTE = {
    "starlette": Framework(around, route="/items/{item}"),
    "starlette, as its middleware": Framework(inside, unhandled_status=None, route="/items/{item}"),
    "starlette, above BaseHTTPMiddleware": Framework(base_http, route="/items/{item}"),
    "starlette, mounted": Framework(mounted, route="/items/{item}"),
}
