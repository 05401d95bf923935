"""One suite of scenarios, played on every framework and, without one, on every server."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from sidefx import SideEffects
from tests.asgi.apps import FRAMEWORKS, Framework
from tests.asgi.probe import Probe
from tests.asgi.servers import SERVERS, UVICORN, Server, serving

PLACES = [(kind, "bare") for kind in SERVERS]
PLACES += [(UVICORN[index % 2], name) for index, name in enumerate(FRAMEWORKS) if name != "bare"]

WHOLE = [  # path, the response's status, whether it is a success
    ("/ok", 200, True),
    ("/sync", 200, True),
    ("/redirect", 307, True),
    ("/bad", 400, False),
    ("/http-exception", 404, False),
    ("/down", 500, False),
]


@pytest.fixture(scope="module", params=PLACES, ids=", ".join)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Framework]]:
    """The app of one framework on one server."""
    kind, name = request.param
    probe, framework = Probe(), FRAMEWORKS[name]
    effects = SideEffects({"sink": probe.sink}, name=name)
    with serving(kind, framework.build(effects, probe)) as server:
        server.probe, server.fx = probe, effects
        yield server, framework


def _ran(server: Server, case: str) -> list[str]:
    ran = server.settled(case)
    assert [event.what for event in server.probe.events_of(case)] == ["event"]
    return ran


@pytest.mark.contract("S02", "S13")
@pytest.mark.parametrize(("path", "status", "success"), WHOLE, ids=[path for path, *_ in WHOLE])
def test_a_response_of_the_apps_own(place: tuple[Server, Framework], path: str, status: int, success: bool) -> None:
    """Whatever the status, every effect that is due runs once, and `when` goes by the status."""
    server, _ = place
    reply, case = server.get(path)

    assert reply.status == status or (path == "/redirect" and reply.status == 302)
    assert _ran(server, case) == ["always", "success" if success else "error"]
    assert server.probe.seen[case].status == reply.status
    assert server.probe.seen[case].outcome == "complete"


@pytest.mark.contract("S02", "S13", "X02")
def test_an_unhandled_exception(place: tuple[Server, Framework]) -> None:
    """It is an error, also where the framework has rendered a 500; the status is what the adapter saw."""
    server, framework = place
    reply, case = server.get("/boom")

    assert reply.status == 500
    assert _ran(server, case) == ["always", "error"]
    assert server.probe.seen[case].status == framework.unhandled_status
    assert server.probe.seen[case].outcome == framework.unhandled_outcome


@pytest.mark.contract("S02", "S13")
def test_an_error_in_mid_stream(place: tuple[Server, Framework]) -> None:
    """A stream that breaks is an error although its status was 200.

    Also under `BaseHTTPMiddleware`, which sends the last message first and raises then.
    """
    server, _ = place
    case = "broken"
    with server.wire() as wire:
        wire.ask(case, "/mid-stream")
        wire.until(b"first")
        assert _ran(server, case) == ["always", "error"]

    assert server.probe.seen[case].status == 200
    assert server.probe.seen[case].outcome == "errored"


@pytest.mark.contract("S02", "S13", "A07")
def test_a_client_that_left(place: tuple[Server, Framework]) -> None:
    """A client that resets a 200 in mid-stream is no error, and its leaving is told."""
    server, _ = place
    case = "left"
    with server.wire() as wire:
        wire.ask(case, "/leave")
        wire.until(b"first")
        wire.reset()

    assert _ran(server, case) == ["always", "success"]
    assert server.probe.seen[case].status == 200
    assert server.probe.seen[case].outcome == "disconnected"


@pytest.mark.contract("S02")
def test_requests_in_a_row_and_at_once(place: tuple[Server, Framework]) -> None:
    """Of many requests, some on one connection and all open at a time, each has its own effects once."""
    server, _ = place
    wires = [server.wire() for _ in range(5)]
    cases = [f"many-{index}" for index in range(20)]
    for _round in range(4):
        for index, wire in enumerate(wires):
            wire.ask(cases[_round * 5 + index], "/ok")
        for wire in wires:
            assert wire.reply().status == 200
    for wire in wires:
        wire.socket.close()

    assert [_ran(server, case) for case in cases] == [["always", "success"]] * 20


@pytest.mark.contract("A14", "A15")
def test_the_adapter_answers_the_lifespan(place: tuple[Server, Framework], caplog: pytest.LogCaptureFixture) -> None:
    """With or without a lifespan of the app's own the server hears that the start-up is complete; nobody is warned."""
    server, _ = place
    server.get("/ok")

    assert server.witness.lifespan == ["lifespan.startup.complete"]
    warnings = [r for r in caplog.records if r.name.startswith("sidefx") and r.levelno >= logging.WARNING]
    assert warnings == []
