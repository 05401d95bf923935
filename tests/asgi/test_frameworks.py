"""What docs/frameworks.md says of single frameworks, and of where the adapter stands in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import litestar
import pytest
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import sidefx
from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.probe import Gate, Probe, until
from tests.asgi.servers import Server, serving


def _path_seen() -> str | None:
    request = sidefx.request()
    return None if request is None else request.path


def _settled(server: Server, fx: SideEffects, probe: Probe, path: str) -> list[Any]:
    server.fx, server.probe = fx, probe
    _, case = server.get(path)
    return server.settled(case)


def _litestar(handlers: list[Any], **options: Any) -> Any:
    """Without what it does to the logging of the whole process."""
    return litestar.Litestar(handlers, openapi_config=None, logging_config=None, **options)


# --- threads without a context -------------------------------------------------------------------------------------


class Threaded:
    """A resource of Falcon's that schedules from a thread, and waits for what is not to wait."""

    def __init__(self, in_thread: Callable[..., Awaitable[object]], *, waits: bool) -> None:
        self._in_thread = in_thread
        self._waits = waits
        self.ran: list[str | None] = []

    def _effect(self) -> None:
        self.ran.append(_path_seen())

    async def on_get(self, req: Any, resp: Any) -> None:
        await self._in_thread(after, self._effect)
        if self._waits:
            await until(lambda: self.ran)
        resp.text = str(self.ran)


@pytest.mark.contract("S11", "S12")
def test_falcons_thread_has_no_context() -> None:
    """What is scheduled in `sync_to_async` is of no request: it has run before the response."""
    resource, fx = Threaded(falcon.sync_to_async, waits=True), SideEffects()
    app = falcon.asgi.App()
    app.add_route("/", resource)
    with serving("uvicorn-h11", SideEffectsMiddleware(app, effects=fx)) as server:
        reply, _ = server.get("/")
    assert reply.body == b"[None]"


@pytest.mark.contract("S12", "X01")
@pytest.mark.parametrize("bound", [False, True], ids=["asyncio.to_thread", "sync_to_async, bound"])
def test_falcons_thread_with_a_context(bound: bool) -> None:
    """`asyncio.to_thread` takes the context along, and `bind` the scope: its effects wait for the response."""
    fx = SideEffects()

    async def in_thread(function: Callable[..., Any], *args: Any) -> object:
        if bound:
            return await falcon.sync_to_async(fx.bind(function), *args)
        return await asyncio.to_thread(function, *args)

    resource = Threaded(in_thread, waits=False)
    app = falcon.asgi.App()
    app.add_route("/threaded", resource)
    with serving("uvicorn-h11", SideEffectsMiddleware(app, effects=fx)) as server:
        server.fx = fx
        reply, case = server.get("/threaded")
        server.settled(case)
    assert reply.body == b"[]"
    assert resource.ran == ["/threaded"]


@pytest.mark.contract("A02", "A07")
def test_falcons_stream_goes_on_without_its_client() -> None:
    """Falcon looks for a client that left in `resp.sse` alone: a `resp.stream` ends by itself, and effects wait."""
    probe, gate, fx = Probe(), Gate(), SideEffects()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await gate.passed()
        yield b"last"

    class Stream:
        async def on_get(self, req: Any, resp: Any) -> None:
            after(probe.note, "effect")
            resp.stream = chunks()

    app = falcon.asgi.App()
    app.add_route("/", Stream())
    with gate, serving("uvicorn-h11", SideEffectsMiddleware(app, effects=fx)) as server:
        server.fx, server.probe = fx, probe
        with server.wire() as wire:
            wire.ask("left")
            wire.until(b"first")
            wire.reset()
        server.get("/nowhere")  # the server has had time to see it
        assert "left" not in server.witness.over
        gate.open()
        assert server.settled("left") == ["effect"]


# --- where the adapter stands --------------------------------------------------------------------------------------


@pytest.mark.contract("S11")
@pytest.mark.parametrize("outermost", [True, False], ids=["added last", "added first"])
def test_the_position_among_starlettes_middlewares(outermost: bool) -> None:
    """The one that was added last is the outermost; what stands outside of the adapter is of no request."""
    fx, seen = SideEffects(), []

    class Outside:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                after(lambda: seen.append(_path_seen()))
            await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/ok", PlainTextResponse("ok"))])
    if outermost:
        app.add_middleware(Outside)
        app.add_middleware(SideEffectsMiddleware, effects=fx)
    else:
        app.add_middleware(SideEffectsMiddleware, effects=fx)
        app.add_middleware(Outside)
    with serving("uvicorn-h11", app) as server:
        _settled(server, fx, Probe(), "/ok")
    assert seen == ["/ok" if outermost else None]


@pytest.mark.contract("S11")
@pytest.mark.parametrize("inside", [False, True], ids=["around", "as its middleware"])
def test_what_litestars_middlewares_do_not_see(inside: bool) -> None:
    """Litestar's middlewares stand behind its router: a path that it does not know never reaches the adapter there."""
    fx, seen = SideEffects(), []

    def not_found(request: Any, error: Exception) -> litestar.Response[str]:
        after(lambda: seen.append(_path_seen()))
        return litestar.Response("nothing here", status_code=404)

    handlers: dict[int, Any] = {404: not_found}
    if inside:
        middleware = DefineMiddleware(SideEffectsMiddleware, effects=fx)
        app = _litestar([], exception_handlers=handlers, middleware=[middleware], lifespan=[fx])
    else:
        app = SideEffectsMiddleware(_litestar([], exception_handlers=handlers), effects=fx)
    with serving("uvicorn-h11", app) as server:
        _settled(server, fx, Probe(), "/nowhere")
    assert seen == [None if inside else "/nowhere"]


@pytest.mark.contract("A15")
def test_litestar_makes_a_middleware_for_each_route(tmp_path: Path) -> None:
    """With `config=` each route has a runtime of its own, which hears of no lifespan; hence `effects=` there."""
    config = tmp_path / "sidefx.toml"
    config.write_text("[sinks]\n")
    made: list[SideEffectsMiddleware] = []

    def make(app: Any) -> SideEffectsMiddleware:
        made.append(SideEffectsMiddleware(app, config=config))
        return made[-1]

    @litestar.get("/one")
    async def one() -> str:
        return "one"

    @litestar.get("/two")
    async def two() -> str:
        return "two"

    with serving("uvicorn-h11", _litestar([one, two], middleware=[DefineMiddleware(make)])) as server:
        for path in ("/one", "/two"):
            _, case = server.get(path)
            server.over(case)
        running = [middleware.effects for middleware in made if middleware.effects.running]
        for effects in running:
            server.run(effects.stop)
    assert len(running) == 2


# --- what comes before the effects ---------------------------------------------------------------------------------


@pytest.mark.contract("S01")
def test_a_background_task_comes_first() -> None:
    """The app has returned when its background task has: effects start then."""
    probe, fx = Probe(), SideEffects()

    async def task() -> None:
        probe.note("background task")

    async def endpoint(request: Any) -> Any:
        after(probe.note, "effect")
        return PlainTextResponse("ok", background=BackgroundTask(task))

    app = SideEffectsMiddleware(Starlette(routes=[Route("/", endpoint)]), effects=fx)
    with serving("uvicorn-h11", app) as server:
        assert _settled(server, fx, probe, "/") == ["background task", "effect"]


# --- the route -----------------------------------------------------------------------------------------------------


@pytest.mark.contract("X02")
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/lit/items/7", "/lit/items/{item}"),
        ("/named/7", "/named/<item>"),
        ("/unnamed/7", "/unnamed"),
    ],
)
def test_the_route_of_another_framework_that_is_mounted(path: str, route: str) -> None:
    """Below Starlette's mount stands the template that the mounted app leaves, or has put there itself."""
    probe, fx = Probe(), SideEffects()

    @litestar.get("/items/{item:int}")
    async def item(item: FromPath[int]) -> str:
        after(probe.note, "effect")
        return "ok"

    async def unnamed(scope: Any, receive: Any, send: Any) -> None:
        after(probe.note, "effect")
        await PlainTextResponse("ok")(scope, receive, send)

    async def named(scope: Any, receive: Any, send: Any) -> None:
        scope["path_template"] = "/<item>"
        await unnamed(scope, receive, send)

    mounts = [Mount("/lit", _litestar([item])), Mount("/named", named), Mount("/unnamed", unnamed)]
    with serving("uvicorn-h11", SideEffectsMiddleware(Starlette(routes=mounts), effects=fx)) as server:
        assert _settled(server, fx, probe, path) == ["effect"]
    (request,) = probe.seen.values()
    assert request.route == route
