"""Effects keep nothing of a response back, and no worker from the next request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wsgi.processes import COMMANDS, Process, serving

APP = "tests.wsgi.drained:app"


@pytest.fixture(params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """Every server; most of them serve one request at a time."""
    with serving(request.param, APP, tmp_path, DRAIN_TIMEOUT="0.2") as process:
        yield process


@pytest.mark.contract("W01", "S01")
@pytest.mark.parametrize("path", ["/block", "/nested"])
def test_the_end_of_the_body_is_not_withheld(server: Process, path: str) -> None:
    """The client has its whole body, and the worker serves others, while an effect of the request still runs."""
    begun, done = ("blocks", "does not block any more") if path == "/block" else ("effect 2 runs", "effect 0 done")
    reply, case = server.get(path)
    assert reply.body.endswith(b" answers")
    server.record.has(case, begun)

    for _ in range(3):
        other, _ = server.get("/")
        assert other.body.endswith(b" answers")
    assert done not in server.record.of(case)

    server.allow("effects")
    server.record.has(case, done)


@pytest.mark.contract("W01", "A12")
@pytest.mark.parametrize("kind", ["gunicorn-gthread", "waitress"])
def test_the_next_request_on_the_same_connection(kind: str, tmp_path: Path) -> None:
    """A kept connection is not kept busy by the effects of what was asked on it before."""
    with serving(kind, APP, tmp_path, DRAIN_TIMEOUT="0.2") as server, server.wire() as wire:
        for case in ("first", "second"):
            wire.ask(case, "/block?length")
            assert wire.reply().body.endswith(b" answers")
            server.record.has(case, "blocks")
        assert "does not block any more" not in server.record.of("first")
        server.allow("effects")


@pytest.mark.contract("W01", "L01")
def test_a_sink_that_hangs_is_felt_by_nobody(server: Process) -> None:
    """Neither the response nor a later one waits for it, and another sink has its events."""
    for _ in range(3):
        reply, case = server.get("/hang")
        assert reply.body.endswith(b" answers")
        server.record.has(case, "delivered event by the other", "hangs")
