"""The runtime starts and ends with the app, whether or not the server tells of either."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps import AppBug
from tests.asgi.diary import Diary
from tests.asgi.probe import Gate, Happened, eventually
from tests.asgi.servers import WITH_LIFESPAN, body, lifespan, serving, start


@pytest.mark.contract("A14")
@pytest.mark.parametrize("kind", WITH_LIFESPAN)
def test_started_before_the_app_and_drained_before_its_end(kind: str) -> None:
    """Sinks open before the app starts; effects end before its shutdown; sinks close before the server hears of it.

    Once a server has heard that the shutdown is complete, it waits for nothing.
    """
    diary, gate = Diary(), Gate()
    effects = SideEffects({"diary": diary})

    async def endpoint(request: Any) -> Any:
        async def effect() -> None:
            await gate.passed()
            diary.entries.append("effect done")
            after(Happened(what="nested"))

        after(effect)
        return PlainTextResponse(request.state.pool)

    app = Starlette(routes=[Route("/", endpoint)], lifespan=diary.lifespan)
    with gate, serving(kind, SideEffectsMiddleware(app, effects=effects)) as server:
        reply, _ = server.get()
        assert reply.body == b"the pool"
        gate.reached()
        eventually(lambda: "effect of the start-up" in diary.entries)
        server.stop()
        eventually(lambda: "lifespan.shutdown" in server.witness.told)
        assert "app stopped" not in diary.entries
        gate.open()
        eventually(lambda: "lifespan.shutdown.complete" in server.witness.lifespan)
        assert "sink closed" in diary.entries

    assert diary.entries == [
        "sink opened",
        "app started",
        "effect of the start-up",
        "effect done",
        "event delivered",
        "app stopped",
        "sink closed",
    ]
    assert server.witness.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


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


@pytest.mark.contract("A14")
@pytest.mark.parametrize("kind", WITH_LIFESPAN)
def test_a_start_up_failure_of_the_app_is_reported_as_one(kind: str) -> None:
    """The server hears of it and does not serve; the sinks are closed again."""
    diary = Diary()

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        raise AppBug
        yield

    app = SideEffectsMiddleware(Starlette(lifespan=lifespan), effects=SideEffects({"diary": diary}))
    with serving(kind, app, fails=True) as server:
        eventually(lambda: server.witness.lifespan)
    assert server.witness.lifespan == ["lifespan.startup.failed"]
    assert diary.entries == ["sink opened", "sink closed"]


class Unreachable:
    """A sink that cannot be opened."""

    async def __aenter__(self) -> None:
        raise ConnectionRefusedError("nobody answers at 127.0.0.1:1")

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, event: Happened) -> None:
        pass


@pytest.mark.contract("A14")
@pytest.mark.parametrize("kind", WITH_LIFESPAN)
def test_a_start_up_failure_of_sidefx_is_reported_as_one(kind: str) -> None:
    """The message to the server names the sink and the reason; the app is not started."""
    diary = Diary()
    effects = SideEffects({"mail": Unreachable()})
    app = SideEffectsMiddleware(Starlette(lifespan=diary.lifespan), effects=effects)
    with serving(kind, app, fails=True) as server:
        eventually(lambda: server.witness.lifespan)
    assert server.witness.lifespan == ["lifespan.startup.failed"]
    assert diary.entries == []
    assert "sidefx could not start: sinks.mail" in server.witness.reason
    assert "nobody answers" in server.witness.reason


@pytest.mark.contract("A14")
def test_a_missing_configuration_is_a_start_up_failure(tmp_path: Path) -> None:
    """It is read at start-up, not when the app is put together, and its absence says which file is missing."""
    app = SideEffectsMiddleware(Starlette(), config=tmp_path / "absent.toml")
    with serving("uvicorn-h11", app, fails=True) as server:
        eventually(lambda: server.witness.lifespan)
    assert server.witness.lifespan == ["lifespan.startup.failed"]
    assert "absent.toml" in server.witness.reason


@pytest.mark.contract("A14", "A15")
@pytest.mark.parametrize("kind", WITH_LIFESPAN)
def test_an_app_that_returns_from_its_lifespan_at_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app that says nothing to a lifespan has none; the adapter answers for it, without a warning."""
    diary = Diary()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            after(Happened(what="event"))
            await PlainTextResponse("ok")(scope, receive, send)

    with serving(kind, SideEffectsMiddleware(app, effects=SideEffects({"diary": diary}))) as server:
        server.get()
    assert diary.entries == ["sink opened", "event delivered", "sink closed"]
    assert server.witness.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [record for record in caplog.records if record.name == "sidefx.asgi"] == []


@pytest.mark.contract("A14")
def test_a_runtime_that_runs_already_is_left_running() -> None:
    """Whoever has started it stops it: a lifespan that comes and goes changes nothing."""
    diary = Diary()
    effects = SideEffects({"diary": diary})

    async def main() -> None:
        async with effects:
            app = SideEffectsMiddleware(Starlette(lifespan=diary.lifespan), effects=effects)
            for _ in range(2):
                await _live(app)
            assert effects.engine.accepting

    anyio.run(main)
    assert diary.entries.count("sink opened") == diary.entries.count("sink closed") == 1


@pytest.mark.contract("A14")
@pytest.mark.anyio
async def test_one_adapter_can_live_twice() -> None:
    """A test client enters the lifespan of one app again and again; each time it starts and ends."""
    diary = Diary()
    app = SideEffectsMiddleware(Starlette(), effects=SideEffects({"diary": diary}))
    for _ in range(2):
        await _live(app)
    assert diary.entries == ["sink opened", "sink closed"] * 2


async def _live(app: ASGIApp) -> None:
    """A lifespan from start to end."""
    messages: Iterator[str] = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        assert message["type"].endswith(".complete"), message

    await app({"type": "lifespan", "state": {}}, receive, send)
