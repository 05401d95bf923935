"""Several runtimes in one process, full queues, and events that nobody takes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import sidefx
from sidefx import BufferOptions, CallableOptions, Event, RetryOptions, RuntimeOptions, SideEffects, SinkOptions, after
from sidefx.asgi import SideEffectsMiddleware
from sidefx.stats import SinkStats
from tests.asgi.probe import Gate, Happened, Probe, eventually
from tests.asgi.servers import SERVERS, Server, body, serving, staged, start


class NobodysEvent(Event, kind="asgi_test.nobodys"):
    """No sink takes it."""


@pytest.mark.contract("A16")
@pytest.mark.parametrize("kind", SERVERS)
def test_two_mounted_apps_keep_their_effects_apart(kind: str) -> None:
    """Each sub-application's effects go to its own runtime, nested ones and those of a sink included."""
    probes = {"one": Probe(), "two": Probe()}
    runtimes: dict[str, SideEffects] = {}
    mounts = []
    for name, probe in probes.items():

        def nested(probe: Probe = probe) -> None:
            probe.schedule()

        def endpoint(request: Any, nested: Any = nested) -> Any:
            after(nested)
            return PlainTextResponse("ok")

        runtimes[name] = SideEffects({"sink": probe.sink}, name=name)
        app = Starlette(routes=[Route("/", endpoint)])
        mounts.append(Mount(f"/{name}", app=SideEffectsMiddleware(app, effects=runtimes[name])))

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with runtimes["one"], runtimes["two"]:
            yield

    with serving(kind, Starlette(routes=mounts, lifespan=lifespan)) as server:
        cases = {}
        for name, probe in probes.items():
            server.probe, server.fx = probe, runtimes[name]
            reply, cases[name] = server.get(f"/{name}/")
            assert reply.status == 200
            assert server.settled(cases[name]) == ["always", "success"]
            assert len(probe.events_of(cases[name])) == 1
    for name, probe in probes.items():
        assert [case for case, _ in probe.notes] == [cases[name]] * 2
        assert len(probe.delivered) == 1


@pytest.mark.contract("A16", "X04")
@pytest.mark.parametrize("kind", SERVERS)
def test_a_sink_does_not_belong_to_the_request_that_started_its_runtime(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A mounted adapter hears of no lifespan, so that a request starts its runtime: not in that request's context."""
    outer_probe = Probe()
    seen: list[Any] = []

    async def sink(event: Happened) -> None:
        seen.append(sidefx.request())

    inner_effects, outer_effects = SideEffects({"sink": sink}, name="inner"), SideEffects(name="outer")

    def endpoint(request: Any) -> Any:
        after(Happened(what="inner"))
        return PlainTextResponse("ok")

    inner = SideEffectsMiddleware(Starlette(routes=[Route("/", endpoint)]), effects=inner_effects)
    outer = SideEffectsMiddleware(Starlette(routes=[Mount("/inner", app=inner)]), effects=outer_effects)
    with serving(kind, outer) as server:
        server.probe, server.fx = outer_probe, inner_effects
        for _ in range(2):
            _, case = server.get("/inner/")
            server.settled(case)
        server.run(inner_effects.stop)

    assert seen == [None, None]
    assert "runs no ASGI lifespan" in caplog.text


@pytest.mark.contract("A17")
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(("policy", "kept"), [("drop_newest", [0, 1, 2]), ("drop_oldest", [0, 3, 4])])
def test_a_full_buffer_drops_by_its_policy_and_counts(kind: str, policy: Any, kept: list[int]) -> None:
    """Whichever the policy drops, it is counted as `full`; the responses are all 200."""
    with Gate() as gate:
        delivered: list[str] = []

        async def sink(event: Happened) -> None:
            await gate.passed()
            delivered.append(event.what)

        def make(probe: Probe) -> SideEffects:
            options = SinkOptions(buffer=BufferOptions(max_events=2, when_full=policy))
            return SideEffects({"sink": sink}, {"sink": options})

        with staged(kind, make) as server:
            for index in range(5):
                case = server.play(_scheduling(Happened(what=str(index))))
                reply, _ = server.get(case=case)
                assert reply.status == 200
                server.over(case)
                eventually(lambda count=index + 1: _stats(server).accepted == count)  # type: ignore[misc]
                if index == 0:
                    gate.reached()  # the first one is with the sink, and the buffer is empty again
            gate.open()
            server.run(server.fx.flush)
            stats = _stats(server)
    assert delivered == [str(index) for index in kept]
    assert (stats.accepted, stats.delivered, stats.dropped) == (5, 3, {"full": 2})


@pytest.mark.contract("A17")
@pytest.mark.parametrize("kind", SERVERS)
def test_a_full_buffer_that_blocks_holds_the_request_and_not_the_response(kind: str) -> None:
    """Under `block` the client has its response at once; the finished request waits for room; nothing is lost."""
    with Gate() as gate:
        delivered: list[str] = []

        async def sink(event: Happened) -> None:
            await gate.passed()
            delivered.append(event.what)

        def make(probe: Probe) -> SideEffects:
            options = SinkOptions(buffer=BufferOptions(max_events=1, when_full="block"))
            return SideEffects({"sink": sink}, {"sink": options})

        with staged(kind, make) as server:
            first = server.play(_scheduling(*[Happened(what=str(index)) for index in range(3)]))
            reply, _ = server.get(case=first)
            assert reply.status == 200
            gate.reached()
            assert first not in server.witness.over
            gate.open()
            server.over(first)
            server.run(server.fx.flush)
    assert delivered == ["0", "1", "2"]


@pytest.mark.contract("A17")
@pytest.mark.parametrize("kind", SERVERS)
def test_too_many_callables_are_dropped_and_counted(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond `max_queued` a callable is dropped, counted and logged; the response is a 200."""
    with Gate() as gate:

        def make(probe: Probe) -> SideEffects:
            runtime = RuntimeOptions(callables=CallableOptions(concurrency=1, max_queued=1))
            return SideEffects(runtime=runtime)

        with staged(kind, make) as server:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                for _ in range(5):
                    after(gate.passed)
                await _ok(send)

            before = server.fx.stats().callables
            reply, case = server.get(case=server.play(app))
            assert reply.status == 200
            server.over(case)
            eventually(lambda: server.fx.stats().callables.accepted - before.accepted == 5)
            gate.open()
            server.run(server.fx.flush)
            stats = server.fx.stats().callables
    assert stats.accepted - before.accepted == 5
    assert (stats.delivered - before.delivered, stats.dropped) == (2, {"full": 3})  # one running, one queued
    assert "dropped (full)" in caplog.text


@pytest.mark.contract("A17")
def test_an_event_without_a_sink_is_counted_and_warned_of_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes no 500, and no line for each."""
    for _ in range(3):
        case = server.play(_scheduling(NobodysEvent()))
        reply, _ = server.get(case=case)
        assert reply.status == 200
        server.settled(case)

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert server.fx.stats().unrouted == {"asgi_test.nobodys": 3}
    assert [record for record in warnings if "no sink takes" in record.getMessage()] == warnings
    assert len(warnings) == 1


@pytest.mark.contract("L01")
@pytest.mark.parametrize("kind", SERVERS)
def test_a_sink_that_fails_is_not_felt(kind: str) -> None:
    """Nothing that a sink raises reaches the response or its connection."""

    async def sink(event: Happened) -> None:
        raise LookupError("the sink's own")

    def make(probe: Probe) -> SideEffects:
        options = SinkOptions(retry=RetryOptions(attempts=1))
        return SideEffects({"bad": sink, "good": probe.sink}, {"bad": options})

    with staged(kind, make) as server, server.wire() as wire:
        for index in range(3):
            case = server.play(_scheduling(Happened(what=str(index))))
            wire.ask(case)
            assert wire.reply().status == 200
            server.settled(case)
    assert [event.what for event in server.probe.delivered] == ["0", "1", "2"]
    assert server.fx.stats().sinks["bad"].expired == 3


def _stats(server: Server) -> SinkStats:
    return server.fx.stats().sinks["sink"]


def _scheduling(*events: Event) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for event in events:
            after(event)
        await _ok(send)

    return app


async def _ok(send: Any) -> None:
    await send(start(200, ("content-length", "2")))
    await send(body(b"ok"))
