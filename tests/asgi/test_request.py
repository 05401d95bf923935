"""What an effect can read of its request, and that it can change nothing of it."""

from __future__ import annotations

import time
from typing import Any

import fastapi
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import sidefx
from sidefx import ResponseOverError, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from sidefx.request import Client, RequestInfo
from tests.asgi.probe import Probe, until
from tests.asgi.servers import SERVERS, Server, body, serving, start, whole

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# --- X02: the facts of the request ---------------------------------------------------------------------------------


@pytest.mark.contract("X02")
def test_every_fact_of_the_request(server: Server) -> None:
    """Inside an effect the request can be read in full, and the response's end with it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await receive()
        await send(start(201, ("content-length", "6")))
        await send(body(b"abc", more_body=True))
        await send(body(b"def"))

    reply, case = server.get(
        "/a%20b/%C3%A9?tag=x&tag=y&empty=&q=%C3%A9",
        case=server.play(app),
        method="POST",
        body=b"secret body",
        User_Agent="agent/1.0",
        traceparent=TRACEPARENT,
        Cookie='session=s3cret; theme="dark mode"',
        Authorization="Bearer t0ken",
        X_Twice=("1", "2"),
    )
    assert reply.status == 201
    server.settled(case)
    request = server.probe.seen[case]

    assert (request.request_id, request.method, request.path) == (case, "POST", "/a b/é")
    assert request.query.getlist("tag") == ["x", "y"]
    assert (request.query["empty"], request.query["q"]) == ("", "é")
    assert request.headers["X-TWICE"] == "1"
    assert request.headers.getlist("x-twice") == ["1", "2"]
    assert request.headers["authorization"] == "Bearer t0ken"
    assert dict(request.cookies) == {"session": "s3cret", "theme": "dark mode"}
    assert isinstance(request.client, Client)
    assert request.client.host == "127.0.0.1"
    assert isinstance(request.client.port, int)
    assert (request.user_agent, request.traceparent) == ("agent/1.0", TRACEPARENT)
    assert (request.status, request.bytes_sent, request.outcome) == (201, 6, "complete")
    assert request.duration is not None
    assert 0 < request.duration < 15
    assert request.route is None


@pytest.mark.contract("X02")
def test_a_request_id_that_is_not_sane_is_replaced(server: Server) -> None:
    """An id that could forge a log line, or has no bounds, is not taken over."""
    seen: list[RequestInfo | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(sidefx.request())
        await send(start(204))
        await send(body())

    for given in ("with space", "x" * 129, "quote\"'", "<script>"):
        server.stage.plays[given] = app
        server.get(case=given)
    ids = [request.request_id for request in seen if request is not None]

    assert len(set(ids)) == 4
    assert all(len(id_) == 36 for id_ in ids)


@pytest.mark.contract("X02")
def test_the_duration_is_that_of_the_response(server: Server) -> None:
    """It ends with the last message, not with what the app does afterwards."""
    asked = time.perf_counter()
    sent: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await send(start(204))
        await send(body())
        sent.append(time.perf_counter())
        await until(lambda: time.perf_counter() - sent[0] > 2 * (sent[0] - asked))  # longer than all there was before

    _, case = server.get(case=server.play(app))
    server.settled(case)

    duration = server.probe.seen[case].duration
    assert duration is not None
    assert 0 < duration <= sent[0] - asked


@pytest.mark.contract("X02")
def test_the_route_of_a_mounted_app_without_routes() -> None:
    """An app that is mounted and routes by itself is its mount, once."""
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})

    async def files(scope: Any, receive: Any, send: Any) -> None:
        probe.schedule()
        await PlainTextResponse("ok")(scope, receive, send)

    def partial(request: Any) -> Any:
        probe.schedule()
        return PlainTextResponse("ok")

    inner = Starlette(routes=[Mount("/files", app=files), Route("/one/{two}", partial)])
    app = SideEffectsMiddleware(Starlette(routes=[Mount("/outer", app=inner)]), effects=effects)
    with serving("uvicorn-h11", app) as server:
        server.probe, server.fx = probe, effects
        routes = []
        for path in ("/outer/files/a/b.txt", "/outer/one/2"):
            _, case = server.get(path)
            server.settled(case)
            routes.append(probe.seen[case].route)
    assert routes == ["/outer/files", "/outer/one/{two}"]


@pytest.mark.contract("X02")
@pytest.mark.parametrize("kind", SERVERS)
def test_the_route_behind_a_root_path(kind: str) -> None:
    """The prefix that a proxy takes off is no part of the route."""
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})
    app = fastapi.FastAPI()

    @app.get("/items/{item}")
    async def item(item: str) -> str:
        probe.schedule()
        return item

    option: dict[str, Any] = {"url_path_prefix" if kind == "granian" else "root_path": "/api"}
    with serving(kind, SideEffectsMiddleware(app, effects=effects), **option) as server:
        server.probe, server.fx = probe, effects
        _, case = server.get("/items/7")
        server.settled(case)
    assert probe.seen[case].route == "/items/{item}"


# --- X03: the response is over, the request is frozen --------------------------------------------------------------


@pytest.mark.contract("X03")
def test_an_effect_cannot_send(server: Server) -> None:
    """`send`, kept for later, raises inside an effect, and in what the effect starts; nothing reaches the client."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def meddle() -> None:
            for message in (start(500), body(b"more", more_body=True), body()):
                with pytest.raises(ResponseOverError, match="cannot change it"):
                    await send(message)
            server.probe.note("refused")

        after(meddle)
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))

    case = server.play(app)
    with server.wire() as wire:
        wire.ask(case)
        assert wire.reply().body == b"ok"
        assert server.settled(case) == ["refused"]
        bystander = server.play(whole)
        wire.ask(bystander)  # on the same connection: nothing stands in between
        assert wire.reply().body == b"ok"
    assert server.probe.seen[case].status == 200


@pytest.mark.contract("X03")
def test_the_request_is_frozen_and_stays_readable(server: Server) -> None:
    """Nothing of it can be set, and all of it can be read long after the connection has gone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await whole(scope, receive, send)

    _, case = server.get(case=server.play(app), Cookie="a=1")
    server.settled(case)
    request: Any = server.probe.seen[case]

    for name in ("status", "headers"):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(request, name, None)
    with pytest.raises(TypeError):
        request.headers["x-new"] = "1"
    with pytest.raises(TypeError):
        request.cookies["a"] = "2"
    with pytest.raises(TypeError):
        request.query["a"] = "2"
    assert request.headers["COOKIE"] == request.headers["cookie"] == "a=1"
    assert "Cookie" in request.headers
    assert request.headers.getlist("x-absent") == []
