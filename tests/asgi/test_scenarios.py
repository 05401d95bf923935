"""One suite of scenarios, played on every framework and, without one, on every server."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from sidefx import SideEffects, after
from tests.asgi.apps import FRAMEWORKS, Framework, Script
from tests.asgi.probe import Gate, eventually
from tests.asgi.servers import SERVERS, UVICORN, Server, serving
from tests.asgi.servers import WITH_LIFESPAN as SERVERS_WITH_LIFESPAN

PLACES = [(kind, "bare") for kind in SERVERS]
PLACES += [(UVICORN[index % 2], name) for index, name in enumerate(FRAMEWORKS) if name != "bare"]
PLACES += [  # where else their users run them
    ("granian", "fastapi, as its middleware"),
    ("hypercorn-trio", "fastapi"),
    ("hypercorn-trio", "litestar"),
    ("hypercorn-asyncio", "quart"),
    ("daphne", "django"),
]
WITH_WEBSOCKETS = [(kind, name) for kind, name in PLACES if FRAMEWORKS[name].has_websockets]
WITH_LIFESPAN = [(kind, name) for kind, name in PLACES if kind in SERVERS_WITH_LIFESPAN]
BOTH_WITH_LIFESPAN = [(kind, name) for kind, name in WITH_LIFESPAN if FRAMEWORKS[name].has_lifespan]

WHOLE = [  # path, the response's status, whether it is a success
    ("/ok", 200, True),
    ("/sync", 200, True),
    ("/bad", 400, False),
    ("/http-exception", 404, False),
    ("/down", 500, False),
]


@pytest.fixture(scope="module", params=PLACES, ids=", ".join)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Framework, Script]]:
    """The app of one framework on one server."""
    kind, name = request.param
    script, framework = Script(), FRAMEWORKS[name]
    effects = SideEffects({"sink": script.sink}, name=name)
    with serving(kind, framework.build(effects, script)) as server:
        server.probe, server.fx = script, effects
        yield server, framework, script


Place = tuple[Server, Framework, Script]


def _ran(place: Place, case: str) -> list[str]:
    server, _, script = place
    ran = server.settled(case)
    assert [event.what for event in script.events_of(case)] == ["event"]
    assert script.variables[case] == "at the call"
    return ran


@pytest.mark.contract("S02", "S13", "X01")
@pytest.mark.parametrize(("path", "status", "success"), WHOLE, ids=[path for path, *_ in WHOLE])
def test_a_response_of_the_apps_own(place: Place, path: str, status: int, success: bool) -> None:
    """Whatever the status, every effect that is due runs once, and `when` goes by the status."""
    server, _, script = place
    reply, case = server.get(path)

    assert reply.status == status
    assert _ran(place, case) == ["always", "success" if success else "error"]
    assert script.seen[case].status == status
    assert script.seen[case].outcome == "complete"


@pytest.mark.contract("S02", "S13")
def test_a_redirect(place: Place) -> None:
    """It is a success."""
    server, framework, script = place
    reply, case = server.get("/redirect")

    assert (reply.status, reply.headers["location"]) == (framework.redirect_status, "/ok")
    assert _ran(place, case) == ["always", "success"]
    assert script.seen[case].status == framework.redirect_status


@pytest.mark.contract("S02", "S13", "X02")
def test_an_unhandled_exception(place: Place) -> None:
    """It is an error, also where the framework has rendered a 500; the status is what the adapter saw."""
    server, framework, script = place
    reply, case = server.get("/boom")

    assert reply.status == 500
    assert _ran(place, case) == ["always", "error"]
    assert script.seen[case].status == framework.unhandled_status
    assert script.seen[case].outcome == framework.unhandled_outcome


@pytest.mark.contract("S02", "S13")
def test_an_error_in_mid_stream(place: Place) -> None:
    """A stream that breaks is an error although its status was 200.

    Also under `BaseHTTPMiddleware`, which sends the last message first and raises then.
    """
    server, _, script = place
    case = "broken"
    with server.wire() as wire:
        wire.ask(case, "/mid-stream")
        wire.until(b"first")
        assert _ran(place, case) == ["always", "error"]

    assert script.seen[case].status == 200
    assert script.seen[case].outcome == "errored"


@pytest.mark.contract("S02", "S13", "A07")
def test_a_client_that_left(place: Place) -> None:
    """A client that resets a 200 in mid-stream is no error, and its leaving is told."""
    server, _, script = place
    case = "left"
    with server.wire() as wire:
        wire.ask(case, "/leave")
        wire.until(b"first")
        wire.reset()

    assert _ran(place, case) == ["always", "success"]
    assert script.seen[case].status == 200
    assert script.seen[case].outcome == "disconnected"


@pytest.mark.contract("S02")
def test_requests_in_a_row_and_at_once(place: Place) -> None:
    """Of many requests, some on one connection and all open at a time, each has its own effects once."""
    server, _, _ = place
    wires = [server.wire() for _ in range(5)]
    cases = [f"many-{index}" for index in range(20)]
    for _round in range(4):
        for index, wire in enumerate(wires):
            wire.ask(cases[_round * 5 + index], "/ok")
        for wire in wires:
            assert wire.reply().status == 200
    for wire in wires:
        wire.socket.close()

    assert [_ran(place, case) for case in cases] == [["always", "success"]] * 20


@pytest.mark.contract("X02")
def test_what_an_effect_sees_of_its_request(place: Place) -> None:
    """Method, path, query and status are the request's; the route is what the framework leaves of it."""
    server, framework, script = place
    reply, case = server.get("/items/7?colour=red", method="POST")

    assert reply.status == 201
    assert _ran(place, case) == ["always", "success"]
    request = script.seen[case]
    assert (request.method, request.path, request.query["colour"]) == ("POST", "/items/7", "red")
    assert (request.status, request.bytes_sent) == (201, len(reply.body))
    assert request.route == framework.route


@pytest.mark.contract("S05", "S06")
def test_a_nested_effect_of_a_hook(place: Place) -> None:
    """What a dependency, a hook or a middleware of the framework schedules runs, and what that schedules too."""
    server, _, script = place
    reply, case = server.get("/nested")

    assert reply.status == 200
    assert server.settled(case) == ["outer", "inner"]
    assert script.seen[case].path == "/nested"


@pytest.mark.contract("A13")
@pytest.mark.parametrize("place", WITH_WEBSOCKETS, indirect=True, ids=", ".join)
def test_a_websocket(place: Place) -> None:
    """Its effects wait for the end of the connection."""
    server, _, script = place
    case = "websocket"
    with server.dial(case) as peer:
        peer.accepted()
        for text in ("one", "two"):
            peer.says(text)
            assert peer.hears() == text
            server.run(server.fx.flush)
            assert script.of(case) == []
        peer.leaves()
        assert _ran(place, case) == ["always", "success"]

    assert (script.seen[case].path, script.seen[case].status) == ("/chat", 101)
    assert script.seen[case].outcome == "complete"


@pytest.mark.contract("A13", "S13")
@pytest.mark.parametrize("place", WITH_WEBSOCKETS, indirect=True, ids=", ".join)
def test_a_websocket_whose_handler_raises(place: Place) -> None:
    """It is an error where the adapter hears of it; some frameworks close the connection, and return."""
    server, framework, script = place
    case = "websocket-bug"
    with server.dial(case) as peer:
        peer.accepted()
        peer.says("boom")
        assert _ran(place, case) == ["always", "error" if framework.raises_from_websockets else "success"]

    assert script.seen[case].outcome == ("errored" if framework.raises_from_websockets else "complete")


@pytest.mark.contract("A14", "A15")
@pytest.mark.parametrize("place", WITH_LIFESPAN, indirect=True, ids=", ".join)
def test_the_lifespan_is_answered(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """With or without a lifespan of the app's own the server hears that the start-up is complete; nobody is warned."""
    server, _, _ = place
    server.get("/ok")

    assert server.witness.lifespan == ["lifespan.startup.complete"]
    warnings = [r for r in caplog.records if r.name.startswith("sidefx") and r.levelno >= logging.WARNING]
    assert warnings == []


@pytest.mark.contract("A14")
@pytest.mark.parametrize(("kind", "name"), BOTH_WITH_LIFESPAN, ids=map(", ".join, BOTH_WITH_LIFESPAN))
def test_drained_before_the_apps_own_shutdown(kind: str, name: str) -> None:
    """Effects that the shutdown finds running end before the framework's own shutdown hooks run."""
    script = Script()
    effects = SideEffects(name=name)
    with Gate() as gate, serving(kind, FRAMEWORKS[name].build(effects, script)) as server:

        async def effect() -> None:
            await gate.passed()
            script.note("effect done", "app")

        async def schedule() -> None:
            async with effects.scope():
                after(effect)

        server.run(schedule)
        gate.reached()
        server.stop()
        eventually(lambda: "lifespan.shutdown" in server.witness.told)
        assert script.of("app") == ["app started"]
        gate.open()
        eventually(lambda: "lifespan.shutdown.complete" in server.witness.lifespan)

    assert script.of("app") == ["app started", "effect done", "app stopped"]
    assert server.witness.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
