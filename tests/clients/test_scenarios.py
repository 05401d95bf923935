"""What holds with every test client: with `capture()`, and with a real runtime, whoever runs it."""

from __future__ import annotations

import anyio
import pytest

from sidefx import SideEffects
from sidefx.testing import Capture
from tests.asgi.apps import Script
from tests.asgi.probe import Happened
from tests.clients import with_django, with_falcon, with_httpx, with_litestar, with_quart, with_starlette
from tests.clients.kit import SLOW_SECONDS, Kit, played

# Starlette's test client asks for another client library than the one that the project uses.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")

KITS = {
    **with_starlette.KITS,
    **with_httpx.KITS,
    **with_litestar.KITS,
    **with_quart.KITS,
    **with_falcon.KITS,
    **with_django.KITS,
}
EXPECTED = {
    "/ok": (200, ["always", "success"]),
    "/sync": (200, ["always", "success"]),
    "/bad": (400, ["always", "error"]),
    "/boom": (500, ["always", "error"]),
}


def kits(*names: str) -> pytest.MarkDecorator:
    """The test is played with each of these."""
    return pytest.mark.parametrize("kit", [pytest.param(KITS[name], id=name) for name in names])


EVERY = kits(*KITS)
WITH_LIFESPAN = kits(*(name for name, kit in KITS.items() if kit.lifespan))
WITHOUT_LIFESPAN = kits(*(name for name, kit in KITS.items() if not kit.lifespan and kit.starter == "adapter"))
OWN_RUNTIME = kits(*(name for name, kit in KITS.items() if kit.starter != "app"))


class SlowSink:
    """A sink that nobody's effects have gone through by chance."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def send(self, event: Happened) -> None:
        await anyio.sleep(SLOW_SECONDS)
        self._script.delivered.append(event)


def _effects(script: Script) -> SideEffects:
    return SideEffects({"sink": SlowSink(script)})


def _ending(kit: Kit, path: str) -> tuple[int | None, str]:
    """Status and outcome of the response, as the adapter knows them."""
    unhandled = kit.traits.unhandled_status, kit.traits.unhandled_outcome
    return unhandled if path == "/boom" else (EXPECTED[path][0], "complete")


def _assert_settled(script: Script, path: str) -> None:
    assert script.of(path) == EXPECTED[path][1]
    assert [event.what for event in script.events_of(path)] == ["event"]


@pytest.mark.contract("S13", "X02")
@EVERY
@played
async def test_a_request_is_captured_with_its_facts(kit: Kit, sidefx_capture: Capture) -> None:
    """What its outcome allows is there when the client has returned, with the final status; nothing has run."""
    script = Script()
    effects = _effects(script)
    async with kit.opened(kit.app(effects, script)) as client:
        for path, (status, expected) in EXPECTED.items():
            before = len(sidefx_capture)
            assert await client.ask(path) == status
            captured = sidefx_capture[before:]
            assert [effect.args[0] for effect in captured if effect.args] == expected
            [event] = [effect.event for effect in captured if effect.event is not None]
            for effect in captured:
                request = effect.request
                assert request is not None
                assert (request.method, request.path, request.request_id) == ("GET", path, path)
                assert request is event.request
                assert (request.status, request.outcome) == _ending(kit, path)
                assert request.duration is not None
        assert effects.running is (kit.starter == "app")
    assert [note for path in EXPECTED for note in script.of(path)] == []
    assert script.delivered == []


@EVERY
@played
async def test_what_a_request_has_scheduled_runs_when_asked(kit: Kit, sidefx_capture: Capture) -> None:
    """In the context of its request, whichever event loop that was served on."""
    script = Script()
    async with kit.opened(kit.app(_effects(script), script)) as client:
        for path in EXPECTED:
            await client.ask(path)
    await kit.run(sidefx_capture, script)
    for path in EXPECTED:
        _assert_settled(script, path)
        assert (script.seen[path].status, script.seen[path].outcome) == _ending(kit, path)
        assert script.variables[path] == "at the call"


@pytest.mark.contract("A14")
@WITH_LIFESPAN
@played
async def test_the_app_s_lifespan_runs_the_runtime(kit: Kit, told: list[str]) -> None:
    """A test that asks finds effects settled while the client is in use."""
    script = Script()
    effects = _effects(script)
    async with kit.opened(kit.app(effects, script)) as client:
        assert effects.running is (kit.lifespan == "client")
        for path, (status, _) in EXPECTED.items():
            assert await client.ask(path) == status
            if client.flush is not None:
                client.flush(effects)
            elif kit.lifespan == "client":
                await effects.flush()
            _assert_settled(script, path)
    assert not effects.running
    assert told == []


@pytest.mark.contract("A14")
@WITH_LIFESPAN
@played
async def test_leaving_a_client_with_lifespan_drains(kit: Kit) -> None:
    """A test that does not ask finds effects settled after the client's block; one app serves several in turn."""
    script = Script()
    effects = _effects(script)
    app = kit.app(effects, script)
    for use in ("first", "second"):
        async with kit.opened(app) as client:
            await client.ask("/ok", use)
        assert script.of(use) == ["always", "success"]
        assert len(script.events_of(use)) == 1
        assert not effects.running


@pytest.mark.contract("A15")
@WITHOUT_LIFESPAN
@played
async def test_without_lifespan_a_request_returns_with_its_effects_settled(kit: Kit, told: list[str]) -> None:
    """Requests one after another need no waiting; one warning says who has started the runtime."""
    script = Script()
    effects = _effects(script)
    async with kit.opened(kit.app(effects, script)) as client:
        for path, (status, _) in EXPECTED.items():
            if path == "/boom" and kit.traits.unhandled_status is None:
                continue  # the framework answers outside of the adapter, which keeps nobody waiting: see test_starlette
            assert await client.ask(path) == status
            _assert_settled(script, path)
    if kit.backend is not None and effects.running:
        await effects.stop()
    assert [line.partition(",")[0] for line in told] == ["this server runs no ASGI lifespan"]


@OWN_RUNTIME
@played
async def test_a_runtime_of_the_test_s_own(kit: Kit, told: list[str]) -> None:
    """The test runs it, the app uses it, and the test asks it; it outlives the client."""
    script = Script()
    effects = _effects(script)
    async with kit.running(effects):
        async with kit.opened(kit.app(effects, script)) as client:
            for path, (status, _) in EXPECTED.items():
                assert await client.ask(path) == status
                await kit.flush(effects)
                _assert_settled(script, path)
            await client.ask("/ok", "last")
        assert effects.engine.accepting
        await kit.flush(effects)
        assert script.of("last") == ["always", "success"]
        assert effects.stats().sinks["sink"].delivered == len(EXPECTED) + 1
    assert told == []
