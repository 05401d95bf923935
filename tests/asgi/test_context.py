"""What an effect sees of its request, and of the code that scheduled it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import fastapi
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse

import sidefx
from sidefx import SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from sidefx.request import RequestInfo
from sidefx.scope import Scope
from tests.asgi.probe import Happened, Probe, eventually, until
from tests.asgi.servers import SERVERS, Server, body, case_of, serving, staged, start, whole

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

variable: ContextVar[str] = ContextVar("variable", default="unset")


# --- X01: the contextvars of the call ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SERVERS)
def fastapi_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """FastAPI with sub-applications, `BaseHTTPMiddleware` and dependencies of every kind."""
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})

    async def note() -> None:
        probe.note(variable.get())

    def note_sync() -> None:
        probe.note(variable.get())

    def schedule() -> None:
        after(note)
        after(note_sync)
        after(note())

    async def set_below(request: Any, call_next: Any) -> Any:
        variable.set("from the middleware")
        return await call_next(request)

    app = fastapi.FastAPI()
    sub = fastapi.FastAPI()
    router = fastapi.APIRouter(prefix="/teams/{team}")
    app.add_middleware(BaseHTTPMiddleware, dispatch=set_below)

    @app.get("/async")
    async def asynchronous() -> str:
        variable.set("from the endpoint")
        schedule()
        variable.set("too late")
        return "ok"

    @app.get("/sync")
    def synchronous() -> str:
        variable.set("from the thread")
        schedule()
        variable.set("too late")
        return "ok"

    @app.get("/middleware")
    async def inherited() -> str:
        schedule()
        return "ok"

    @sub.get("/items/{item}")
    async def mounted(item: str) -> str:
        variable.set(f"from the sub-application: {item}")
        schedule()
        return "ok"

    @router.get("/members/{member}")
    async def routed(team: str, member: str) -> str:
        after(note)
        return "ok"

    def dependency() -> Iterator[str]:
        variable.set("from the dependency")
        after(note)
        yield "given"
        after(note)

    async def asynchronous_dependency() -> Any:
        variable.set("from the asynchronous dependency")
        after(note)
        yield "given"
        after(note)

    @app.get("/dependencies")
    def depending(
        first: str = fastapi.Depends(dependency), second: str = fastapi.Depends(asynchronous_dependency)
    ) -> str:
        return first + second

    app.include_router(router)
    app.mount("/sub", sub)
    app.mount("/bare", PlainTextResponse("ok"))
    app.mount("/tenants/{tenant}", sub)
    with serving(request.param, SideEffectsMiddleware(app, effects=effects)) as server:
        server.probe, server.fx = probe, effects
        yield server


@pytest.mark.contract("X01")
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/async", "from the endpoint"),
        ("/sync", "from the thread"),
        ("/middleware", "from the middleware"),
        ("/sub/items/7", "from the sub-application: 7"),
    ],
)
def test_the_contextvars_are_those_of_the_call(fastapi_server: Server, path: str, value: str) -> None:
    """Asynchronous, synchronous and coroutine effects see the values as they were at `after()`."""
    reply, case = fastapi_server.get(path)

    assert reply.status == 200
    assert fastapi_server.settled(case) == [value] * 3


@pytest.mark.contract("X01", "X05")
def test_dependencies_with_yield(fastapi_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Both halves of a dependency, which run in contexts of their own, schedule; no token is reset elsewhere."""
    reply, case = fastapi_server.get("/dependencies")

    assert reply.status == 200
    assert len(fastapi_server.settled(case)) == 4
    assert "different Context" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.contract("X02")
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/async", "/async"),
        ("/sub/items/7", "/sub/items/{item}"),
        ("/teams/red/members/ann", "/teams/{team}/members/{member}"),
        ("/tenants/acme/items/7", "/tenants/{tenant}/items/{item}"),
    ],
)
def test_the_route_is_a_template(fastapi_server: Server, path: str, route: str) -> None:
    """Through routers and mounts the route has the placeholders, not their values."""
    _, case = fastapi_server.get(path)
    fastapi_server.settled(case)

    assert fastapi_server.probe.seen[case].route == route
    assert fastapi_server.probe.seen[case].path == path


# --- X04: secrets and strangers ------------------------------------------------------------------------------------


@pytest.mark.contract("X04")
def test_no_secret_reaches_a_stored_event(server: Server) -> None:
    """An event's JSON and repr show neither cookies, authorization, the query nor the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await receive()
        await whole(scope, receive, send)

    _, case = server.get(
        "/reset?token=SECRET",
        case=server.play(app),
        method="POST",
        body=b"password=SECRET",
        Cookie="session=SECRET",
        Authorization="Bearer SECRET",
        Proxy_Authorization="Basic SECRET",
        X_Api_Key="SECRET",
    )
    server.settled(case)
    (event,) = server.probe.events_of(case)

    assert "/reset" in event.model_dump_json()
    shown = [event.model_dump_json(), repr(event), str(event), repr(event.request), str(event.model_dump())]
    assert event.request is not None
    shown += [repr(event.request.headers), repr(event.request.query), event.request.model_dump_json()]
    assert [text for text in shown if "SECRET" in text] == []
    restored = Happened.model_validate_json(event.model_dump_json())
    assert restored.request is not None
    assert (restored.request.request_id, restored.request.status) == (case, 200)


@pytest.mark.contract("X04")
@pytest.mark.parametrize("kind", SERVERS)
def test_requests_at_once_never_see_each_other(kind: str) -> None:
    """Forty requests that are all open at a time: each effect sees its own request and its own variables."""
    with staged(kind) as server:
        arrived: set[str] = set()

        async def note() -> None:
            server.probe.note(variable.get())

        async def app(scope: Any, receive: Any, send: Any) -> None:
            case = case_of(scope)
            variable.set(case)
            after(note)
            after(Happened(what=case))
            await send(start(200, ("content-length", "2")))
            arrived.add(case)
            await until(lambda: len(arrived) == 40)  # all of them wait for each other
            after(server.probe.note, case)
            await send(body(b"ok"))

        cases = [server.play(app) for _ in range(40)]
        wires = [server.wire() for _ in cases]
        for wire, case in zip(wires, cases, strict=True):
            wire.ask(case)
        for wire in wires:
            with wire:
                assert wire.reply().body == b"ok"
        for case in cases:
            assert server.settled(case) == [case, case]
            assert [event.what for event in server.probe.events_of(case)] == [case]


def _stands_in(thread: threading.Thread, function: str) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == function


@pytest.mark.contract("X04")
def test_a_threads_first_look_at_the_request_is_everybodys() -> None:
    """Threads that ask for the request at the same time get one, under one request id."""
    inside, go = threading.Event(), threading.Event()
    made: list[RequestInfo] = []

    def make() -> RequestInfo:
        made.append(RequestInfo(request_id=f"id-{len(made)}"))
        mine = made[-1]
        if len(made) == 1:
            inside.set()
            assert go.wait(10)
        return mine

    scope = Scope(SideEffects().engine, make_request=make)
    seen: list[RequestInfo | None] = []
    threads = [threading.Thread(target=lambda: seen.append(scope.request)) for _ in range(2)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    # it has to wait for the first; where it does not, it ends by itself
    eventually(lambda: _stands_in(threads[1], "request") or not threads[1].is_alive())
    go.set()
    for thread in threads:
        thread.join(10)

    assert len(seen) == 2
    assert seen[0] is seen[1] is scope.request


@pytest.mark.contract("X05")
def test_the_scope_ends_with_the_request(server: Server) -> None:
    """Outside of the adapter there is no request, neither before nor after; a task that outlives it keeps its own."""
    outlived: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await whole(scope, receive, send)
        outlived.append(sidefx.request())

    _, case = server.get(case=server.play(app))
    server.settled(case)
    sight = server.over(case)

    assert sight.request_before is None
    assert sight.request_after is None
    assert eventually(lambda: outlived)[0].request_id == case
