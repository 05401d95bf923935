"""`flush()` inside of a request, and the drain of a server's end, while other things hang."""

from __future__ import annotations

from typing import Any

import pytest

from sidefx import SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Gate, Happened, eventually
from tests.asgi.servers import WITH_LIFESPAN, Server, body, lifespan, serving, start, whole


@pytest.mark.contract("D04")
def test_a_request_that_flushes(server: Server) -> None:
    """It waits for what was accepted before it, and for no longer than it says; not for its own effects."""
    told: list[str] = []
    with Gate() as gate:

        async def earlier(scope: Any, receive: Any, send: Any) -> None:
            after(gate.passed)
            server.probe.schedule()
            await whole(scope, receive, send)

        async def flushing(scope: Any, receive: Any, send: Any) -> None:
            after(told.append, "its own effect")
            with pytest.raises(TimeoutError, match="not settled within"):
                await server.fx.flush(0.01)
            told.append("timed out")
            gate.open()
            await server.fx.flush(15)
            told.extend(server.probe.of(case))
            await whole(scope, receive, send)

        reply, case = server.get(case=server.play(earlier))
        assert reply.body == b"ok"
        gate.reached()
        reply, later = server.get(case=server.play(flushing))
        assert reply.body == b"ok"
    server.settled(later)
    assert told == ["timed out", "always", "success", "its own effect"]


@pytest.mark.contract("D03", "A14")
@pytest.mark.parametrize("kind", WITH_LIFESPAN)
def test_a_hung_sink_delays_the_drain_of_no_other(kind: str) -> None:
    """When the server ends, one sink hangs: the others, and the callables, get on with their work."""
    delivered: list[str] = []
    with Gate() as hung, Gate() as others:

        async def hangs(event: Happened) -> None:
            await hung.passed()
            delivered.append("what hung")

        async def works(event: Happened) -> None:
            await others.passed()
            delivered.append(event.what)

        async def call() -> None:
            await others.passed()
            delivered.append("callable")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await lifespan(receive, send)
                return
            for number in range(3):
                after(Happened(what=f"event {number}"))
            after(call)
            await send(start(200, ("content-length", "2")))
            await send(body(b"ok"))

        effects = SideEffects({"hangs": hangs, "works": works})
        with serving(kind, SideEffectsMiddleware(app, effects=effects)) as server:
            reply, _ = server.get()
            assert reply.body == b"ok"
            hung.reached()
            others.reached()
            server.stop()
            eventually(lambda: "lifespan.shutdown" in server.witness.told)
            others.open()
            eventually(lambda: len(delivered) == 4)
            assert sorted(delivered) == ["callable", "event 0", "event 1", "event 2"]
            assert "lifespan.shutdown.complete" not in server.witness.lifespan
            hung.open()
    assert delivered.count("what hung") == 3
