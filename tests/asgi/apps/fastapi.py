"""FastAPI: the adapter as its middleware, and around it; dependencies schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import fastapi
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script, chunks_then_bug, chunks_then_wait


def _app(script: Script) -> fastapi.FastAPI:
    """Endpoints behind a dependency with `yield`, which is where the effects are scheduled."""

    def scheduling() -> Iterator[None]:
        script.schedule()
        yield

    def nesting() -> Iterator[None]:
        yield
        script.schedule_nested()

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        script.started()
        yield
        script.stopped()

    app = fastapi.FastAPI(lifespan=lifespan)
    router = fastapi.APIRouter(dependencies=[fastapi.Depends(scheduling)])

    @router.get("/ok")
    async def ok() -> str:
        return "whole"

    @router.get("/sync")
    def sync() -> str:
        return "whole"

    @router.get("/bad")
    async def bad() -> Any:
        return PlainTextResponse("whole", 400)

    @router.get("/down")
    async def down() -> Any:
        return PlainTextResponse("whole", 500)

    @router.get("/http-exception")
    async def http_exception() -> Any:
        raise fastapi.HTTPException(404)

    @router.get("/boom")
    async def boom() -> Any:
        raise AppBug

    @router.get("/redirect")
    async def redirect() -> Any:
        return RedirectResponse("/ok")

    @router.get("/mid-stream")
    async def mid_stream() -> Any:
        return StreamingResponse(chunks_then_bug())

    @router.get("/leave")
    async def leave() -> Any:
        return StreamingResponse(chunks_then_wait())

    @router.post("/items/{item}", status_code=201)
    async def place(item: int) -> int:
        return item

    @router.websocket("/chat")
    async def echo(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        with suppress(fastapi.WebSocketDisconnect):
            while True:
                await websocket.send_text(script.heard(await websocket.receive_text()))

    @app.get("/nested", dependencies=[fastapi.Depends(nesting)])
    async def nested() -> str:
        return "whole"

    app.include_router(router)
    return app


def inside(effects: SideEffects, script: Script) -> ASGIApp:
    """The adapter added as a middleware of the app."""
    app = _app(script)
    app.add_middleware(SideEffectsMiddleware, effects=effects)
    return app


def around(effects: SideEffects, script: Script) -> ASGIApp:
    """The adapter around the whole app."""
    return SideEffectsMiddleware(_app(script), effects=effects)


FASTAPI = {
    "fastapi, as its middleware": Framework(inside, unhandled_status=None, route="/items/{item}"),
    "fastapi": Framework(around, route="/items/{item}"),
}
