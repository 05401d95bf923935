"""An adapter that no lifespan reaches, on every server: a request starts the runtime."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from granian.constants import Interfaces

from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.diary import Diary
from tests.asgi.probe import Gate, Happened, eventually
from tests.asgi.servers import SERVERS, lifespan, serving, whole

NO_LIFESPAN: dict[str, dict[str, Any]] = {
    "uvicorn-h11": {"lifespan": "off"},
    "uvicorn-httptools": {"lifespan": "off"},
    "granian": {"interface": Interfaces.ASGINL},
    "daphne": {},
}
"""The servers that run no lifespan, or can be told to run none."""


@pytest.mark.contract("A15")
@pytest.mark.parametrize("kind", SERVERS)
def test_an_adapter_that_no_lifespan_reaches(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app around it answers the server, or the server asks nobody: one warning, and everything works."""

    def below(adapter: ASGIApp) -> ASGIApp:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await lifespan(receive, send)
            else:
                await adapter(scope, receive, send)

        return app

    _play(kind, below, {}, caplog)


@pytest.mark.contract("A15")
@pytest.mark.parametrize("kind", NO_LIFESPAN)
def test_a_server_without_lifespan(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is the same with the adapter around the whole app, on a server that tells of no start and no end."""
    _play(kind, lambda adapter: adapter, NO_LIFESPAN[kind], caplog)


def _play(kind: str, place: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    diary, gate = Diary(), Gate()
    effects = SideEffects({"diary": diary})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(gate.passed)
        after(Happened(what="event"))
        await whole(scope, receive, send)

    with gate, serving(kind, place(SideEffectsMiddleware(app, effects=effects)), **options) as server:
        reply, first = server.get()
        assert reply.body == b"ok"
        gate.reached()
        assert diary.entries[0] == "sink opened"
        assert first not in server.witness.over  # as far as anybody knows, the event loop ends with it
        reply, second = server.get()
        assert reply.body == b"ok"
        for case in (first, second):
            server.over(case)  # two at a time: it does not, and none is kept
        eventually(lambda: effects.stats().callables.in_flight == 2)
        gate.open()
        server.run(effects.stop)

    assert diary.entries == ["sink opened", "event delivered", "event delivered", "sink closed"]
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("sidefx")]
    assert len(warnings) == 1
    assert "runs no ASGI lifespan" in warnings[0]
    assert caplog.records[0].levelno == logging.WARNING
