"""What a running effect must not hold: a server slot, a dependency, a middleware, a connection, a response's tail."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import fastapi
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from sidefx import SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Gate, Probe, eventually
from tests.asgi.servers import HTTP2, SERVERS, UVICORN, Server, body, serving, staged, start

TAIL = 5_000_000


LIMITS: dict[str, dict[str, Any]] = {
    "uvicorn-h11": {"limit_concurrency": 2},  # connections and running requests: beyond them, 503
    "uvicorn-httptools": {"limit_concurrency": 2},
    "hypercorn-asyncio": {},
    "hypercorn-trio": {},
    "hypercorn-asyncio-http2": {"h2_max_concurrent_streams": 2},  # beyond them, the client must not ask
    "hypercorn-trio-http2": {"h2_max_concurrent_streams": 2},
    "granian": {"backpressure": 2},  # connections: beyond them, nobody is let in
    "daphne": {},
}
"""How many requests each server takes at a time, where it has a limit of that kind."""
ONE_CONNECTION = (*UVICORN, *HTTP2)
"""Where the limit is tried on one connection: it counts the streams of that one, or connections too."""


@pytest.mark.contract("A10")
@pytest.mark.parametrize("kind", SERVERS)
def test_effects_hold_no_server_slot(kind: str) -> None:
    """Of a server that takes two requests at a time, twenty are all served while their effects are still running."""
    with staged(kind, **LIMITS[kind]) as server, Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(gate.passed)
            server.probe.schedule()
            await send(start(200, ("content-length", "2")))
            await send(body(b"ok"))

        cases = [server.play(app) for _ in range(20)]
        one = server.wire()
        for case in cases:
            with nullcontext(one) if kind in ONE_CONNECTION else server.wire() as wire:
                wire.ask(case)
                assert wire.reply().status == 200
        one.socket.close()
        assert server.fx.stats().callables.in_flight > 2
        gate.open()
        for case in cases:
            assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("A11")
@pytest.mark.parametrize("kind", SERVERS)
def test_effects_prolong_no_dependency_and_no_middleware(kind: str) -> None:
    """While the effect still runs, the dependency has been left, its session closed, and outer middleware is done."""
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})
    ended: list[str] = []
    app = fastapi.FastAPI()

    async def session() -> Any:
        yield "a session"
        ended.append("dependency")

    def sync_session() -> Any:
        yield "a session"
        ended.append("synchronous dependency")

    async def outer(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        if request.url.path == "/":
            ended.append("middleware")
        return response

    with Gate() as gate:

        @app.get("/")
        async def endpoint(one: str = fastapi.Depends(session), two: str = fastapi.Depends(sync_session)) -> str:
            after(gate.passed)
            after(gate.passed_blocking)
            probe.schedule()
            return one + two

        @app.get("/bystander")
        async def bystander() -> str:
            return "Without lifespan, a request that is alone is kept for its effects: it is not alone."

        app.add_middleware(SideEffectsMiddleware, effects=effects)
        app.add_middleware(BaseHTTPMiddleware, dispatch=outer)
        with serving(kind, app) as server:
            server.probe, server.fx = probe, effects
            reply, case = server.get("/")
            assert reply.status == 200
            gate.reached()
            server.get("/bystander")
            server.over(case)
            assert sorted(ended) == ["dependency", "middleware", "synchronous dependency"]
            eventually(lambda: server.fx.stats().callables.in_flight >= 2)
            gate.open()
            assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("A12")
def test_the_next_request_on_the_connection_is_not_delayed(server: Server) -> None:
    """On one keep-alive connection the second response comes while the first one's effects still run."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(gate.passed)
            after(gate.passed_blocking)
            server.probe.schedule()
            await send(start(200, ("content-length", "2")))
            await send(body(b"ok"))

        cases = [server.play(app) for _ in range(3)]
        with server.wire() as wire:
            for case in cases:
                wire.ask(case)
                assert wire.reply().body == b"ok"
                gate.reached()
        gate.open()
        for case in cases:
            assert sorted(server.settled(case)) == ["always", "success"]


@pytest.mark.contract("S07")
def test_an_effect_that_fails_closes_no_connection(server: Server) -> None:
    """The connection of a request whose effects raise goes on, and so do their siblings."""

    async def fail() -> None:
        raise LookupError("the effect's own")

    def fail_sync() -> None:
        raise LookupError("the effect's own")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(fail)
        after(fail_sync)
        server.probe.schedule()
        await send(start(200, ("content-length", "2")))
        await send(body(b"ok"))

    with server.wire() as wire:
        for _ in range(2):
            case = server.play(app)
            wire.ask(case)
            assert wire.reply().body == b"ok"
            assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("A12")
def test_a_blocking_effect_does_not_delay_the_tail(server: Server) -> None:
    """A slow reader gets all of 5 MB while a synchronous effect, and a hung sink, still block."""
    with Gate() as gate:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(gate.passed_blocking)
            server.probe.schedule()
            await send(start(200, ("content-length", str(TAIL))))
            await send(body(b"x" * TAIL))

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            reply = wire.reply()
            assert (reply.status, len(reply.body)) == (200, TAIL)
            gate.reached()
        gate.open()
    assert sorted(server.settled(case)) == ["always", "success"]


@pytest.mark.contract("A12")
def test_an_effect_that_blocks_the_loop_starts_after_small_responses_are_out(server: Server) -> None:
    """An asynchronous effect that blocks the event loop is the user's fault, and still the client has its answer."""
    with Gate() as gate:

        async def block() -> None:
            gate.passed_blocking()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            after(block)
            await send(start(200, ("content-length", "2")))
            await send(body(b"ok"))

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            assert wire.reply().body == b"ok"  # comes while the loop stands still, or not at all
            gate.reached()
        gate.open()
    server.settled(case)


@pytest.mark.contract("S05", "L01")
def test_effects_without_end_do_not_starve_responses(server: Server) -> None:
    """While effects schedule effects for as long as it takes, other requests are answered."""
    with Gate() as answered:

        async def go_on() -> None:
            if not answered.is_open:
                after(go_on)
                after(go_on_sync)

        def go_on_sync() -> None:
            pass

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(50):
                after(go_on)
            await send(start(204))
            await send(body())

        async def quick(scope: Any, receive: Any, send: Any) -> None:
            await send(start(204))
            await send(body())

        _, heavy = server.get(case=server.play(app))
        for _ in range(10):
            reply, _ = server.get(case=server.play(quick))
            assert reply.status == 204
        answered.open()
        server.settled(heavy)
    assert server.fx.stats().callables.delivered > 50
    assert server.fx.stats().callables.dropped == {}
