"""Effects in the traces of requests that a real server serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.probe import Happened, Probe, until
from tests.asgi.servers import Server, Stage, serving, whole
from tests.asgi.witness import case_of
from tests.traces import Traces, is_child

CALLER = "00f067aa0ba902b7"


def instrumented(app: ASGIApp, traces: Traces) -> ASGIApp:
    """What an instrumentation of ASGI does: a server span around the app, under the caller's."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        context = TraceContextTextMapPropagator().extract(headers)
        with traces.span(f"GET {case_of(scope)}", context=context, kind=traces.api.SpanKind.SERVER):
            await app(scope, receive, send)

    return served


@contextmanager
def serving_traced(kind: str, traces: Traces, *, outside: bool) -> Iterator[Server]:
    """A stage on that server, with the instrumentation outside or inside of sidefx."""
    probe, stage = Probe(), Stage()
    effects = SideEffects({"sink": probe.sink})
    if outside:
        app = instrumented(SideEffectsMiddleware(stage, effects=effects), traces)
    else:
        app = SideEffectsMiddleware(instrumented(stage, traces), effects=effects)
    with serving(kind, app) as server:
        server.probe, server.stage, server.fx = probe, stage, effects
        yield server


@pytest.mark.contract("X01", "X04")
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("kind", ["uvicorn-httptools", "hypercorn-trio"])
def test_effects_lie_in_the_trace_of_their_request(kind: str, outside: bool, traces: Traces) -> None:
    """Of requests that are open at the same time, each in its caller's trace: sync, async, nested, and to a sink."""
    with serving_traced(kind, traces, outside=outside) as server:
        arrived: set[str] = set()

        async def asynchronous(case: str) -> None:
            after(server.probe.note, "nested", name=f"nested {case}")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            case = case_of(scope)
            arrived.add(case)
            await until(lambda: len(arrived) == 4)
            after(server.probe.note, "sync", name=f"sync {case}")
            after(asynchronous, case, name=f"async {case}")
            after(Happened(what=case), name=f"event {case}")
            await whole(scope, receive, send)

        cases = {server.play(app): f"{n:032x}" for n in range(1, 5)}
        wires = [server.wire() for _ in cases]
        for wire, (case, trace) in zip(wires, cases.items(), strict=True):
            wire.ask(case, traceparent=f"00-{trace}-{CALLER}-01")
        for wire in wires:
            with wire:
                assert wire.reply().body == b"ok"
        for case in cases:
            assert sorted(server.settled(case)) == ["nested", "sync"]

    events = {span.attributes["sidefx.effect"]: span for span in traces.named("deliver sink") if span.attributes}
    for case, trace in cases.items():
        request = traces.one(f"GET {case}").context
        assert request is not None
        assert f"{request.trace_id:032x}" == trace
        assert is_child(traces.one(f"after sync {case}"), request)
        assert is_child(events[f"event {case}"], request)
        effect = traces.one(f"after async {case}")
        assert is_child(effect, request)
        assert effect.context is not None
        assert is_child(traces.one(f"after nested {case}"), effect.context)
        named = f"00-{trace}-{request.span_id:016x}-01"  # what an audit record or a webhook says of it
        assert [event.request.traceparent for event in server.probe.events_of(case) if event.request] == [named]
