"""The same small application in every framework: what the scenarios are played on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import django
import fastapi
import fastapi.responses
from django.conf import settings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Mount, Route

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.probe import Probe
from tests.asgi.servers import body, start


class AppBug(Exception):
    """What the apps raise where they are to break."""


@dataclass(frozen=True)
class Framework:
    """One way to build the app, and what an unhandled exception looks like from its adapter."""

    build: Callable[[SideEffects, Probe], ASGIApp]
    unhandled_status: int | None = 500
    unhandled_outcome: str = "errored"
    has_lifespan: bool = True


async def chunks_then_wait() -> Any:
    """A stream that ends when the client leaves."""
    yield b"first"
    await anyio.sleep_forever()


async def chunks_then_bug() -> Any:
    """A stream that breaks."""
    yield b"first"
    raise AppBug


# --- no framework --------------------------------------------------------------------------------------------------


def bare(effects: SideEffects, probe: Probe) -> ASGIApp:
    """A plain ASGI callable, without lifespan."""
    statuses = {"/ok": 200, "/sync": 200, "/bad": 400, "/down": 500, "/http-exception": 404, "/redirect": 307}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        path = scope["path"]
        probe.schedule()
        if path == "/boom":
            raise AppBug
        location = [("location", "/ok")] if path == "/redirect" else []
        await send(start(statuses.get(path, 200), *location))
        if path in {"/mid-stream", "/leave"}:
            await send(body(b"first", more_body=True))
        if path == "/mid-stream":
            raise AppBug
        while path == "/leave" and (await receive())["type"] != "http.disconnect":
            pass
        if path != "/leave":
            await send(body(b"whole"))

    return SideEffectsMiddleware(app, effects=effects)


# --- Starlette -----------------------------------------------------------------------------------------------------


def _starlette_routes(probe: Probe) -> list[Route]:
    async def answer(request: Any, make: Callable[[], Any]) -> Any:
        probe.schedule()
        return make()

    def sync(request: Any) -> Any:
        probe.schedule()
        return PlainTextResponse("whole")

    def http_exception() -> Any:
        raise HTTPException(404)

    def boom() -> Any:
        raise AppBug

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
    routes = [Route(path, partial(answer, make=make)) for path, make in answers.items()]
    return [*routes, Route("/sync", sync)]


async def pass_on(request: Any, call_next: Any) -> Any:
    """What `BaseHTTPMiddleware` does where it does nothing."""
    return await call_next(request)


def starlette(effects: SideEffects, probe: Probe) -> ASGIApp:
    """The adapter around the whole app."""
    return SideEffectsMiddleware(Starlette(routes=_starlette_routes(probe)), effects=effects)


def starlette_inside(effects: SideEffects, probe: Probe) -> ASGIApp:
    """The adapter added as a middleware of the app."""
    app = Starlette(routes=_starlette_routes(probe))
    app.add_middleware(SideEffectsMiddleware, effects=effects)
    return app


def starlette_base_http(effects: SideEffects, probe: Probe) -> ASGIApp:
    """`BaseHTTPMiddleware` below the adapter."""
    app = Starlette(routes=_starlette_routes(probe))
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return SideEffectsMiddleware(app, effects=effects)


def starlette_mounted(effects: SideEffects, probe: Probe) -> ASGIApp:
    """The endpoints in a sub-application, with the adapter around the outer one."""
    inner = Starlette(routes=_starlette_routes(probe))
    return SideEffectsMiddleware(Starlette(routes=[Mount("/", app=inner)]), effects=effects)


# --- FastAPI -------------------------------------------------------------------------------------------------------


def fastapi_app(effects: SideEffects, probe: Probe) -> ASGIApp:
    """Endpoints behind a dependency with `yield`, which is where the effects are scheduled."""

    def scheduling() -> Any:
        probe.schedule()
        yield

    app = fastapi.FastAPI(dependencies=[fastapi.Depends(scheduling)])
    router = fastapi.APIRouter()

    @router.get("/ok")
    async def ok() -> Any:
        return "whole"

    @router.get("/sync")
    def sync() -> Any:
        return "whole"

    @router.get("/bad")
    async def bad() -> Any:
        return fastapi.responses.PlainTextResponse("whole", 400)

    @router.get("/down")
    async def down() -> Any:
        return fastapi.responses.PlainTextResponse("whole", 500)

    @router.get("/http-exception")
    async def http_exception() -> Any:
        raise fastapi.HTTPException(404)

    @router.get("/boom")
    async def boom() -> Any:
        raise AppBug

    @router.get("/redirect")
    async def redirect() -> Any:
        return fastapi.responses.RedirectResponse("/ok")

    @router.get("/mid-stream")
    async def mid_stream() -> Any:
        return fastapi.responses.StreamingResponse(chunks_then_bug())

    @router.get("/leave")
    async def leave() -> Any:
        return fastapi.responses.StreamingResponse(chunks_then_wait())

    app.include_router(router)
    app.add_middleware(SideEffectsMiddleware, effects=effects)
    return app


# --- Django --------------------------------------------------------------------------------------------------------


def django_app(effects: SideEffects, probe: Probe) -> ASGIApp:
    """Django's own ASGI handler, which has no lifespan; one view is synchronous."""
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="for the test", ROOT_URLCONF=None)
        django.setup()
    from django.core.asgi import get_asgi_application
    from django.http import Http404, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
    from django.urls import path

    def http_exception() -> Any:
        raise Http404

    def boom() -> Any:
        raise AppBug

    async def answer(request: Any, make: Callable[[], Any]) -> Any:
        probe.schedule()
        return make()

    async def stream(request: Any, chunks: Callable[[], Any]) -> Any:
        async def closing() -> Any:
            try:
                async for chunk in chunks():
                    yield chunk
            finally:
                request.close()  # where a stream breaks, Django leaves the body's file to the garbage collector

        probe.schedule()
        return StreamingHttpResponse(closing())

    def sync(request: Any) -> Any:
        probe.schedule()
        return HttpResponse("whole")

    answers: dict[str, Callable[[], Any]] = {
        "ok": lambda: HttpResponse("whole"),
        "bad": lambda: HttpResponse("whole", status=400),
        "down": lambda: HttpResponse("whole", status=500),
        "http-exception": http_exception,
        "boom": boom,
        "redirect": lambda: HttpResponseRedirect("/ok"),
    }

    class Urls:
        urlpatterns = [path(where, answer, {"make": make}) for where, make in answers.items()]  # noqa: RUF012
        urlpatterns += [
            path("sync", sync),
            path("mid-stream", stream, {"chunks": chunks_then_bug}),
            path("leave", stream, {"chunks": chunks_then_wait}),
        ]

    settings.ROOT_URLCONF = Urls
    return SideEffectsMiddleware(get_asgi_application(), effects=effects)


FRAMEWORKS = {
    "bare": Framework(bare, unhandled_status=None, has_lifespan=False),
    "starlette": Framework(starlette),
    "starlette, as its middleware": Framework(starlette_inside, unhandled_status=None),
    "starlette, above BaseHTTPMiddleware": Framework(starlette_base_http),
    "starlette, mounted": Framework(starlette_mounted),
    "fastapi": Framework(fastapi_app, unhandled_status=None),
    "django": Framework(django_app, unhandled_outcome="complete", has_lifespan=False),
}
