"""`flush()` in a handler, on every server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sidefx import after
from tests.asgi.probe import PATIENCE, Gate, Happened, eventually
from tests.asgi.servers import Server, body, start, whole
from tests.asgi.wire import Reply


async def _say(send: Any, text: bytes, status: int = 200) -> None:
    await send(start(status, ("content-length", str(len(text)))))
    await send(body(text))


def _flushing(server: Server, timeout: float | None) -> Any:
    """A health endpoint: waits for what there is, and says what was left where that takes too long."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.note("flushing")
        try:
            await server.fx.flush(timeout=timeout)
        except TimeoutError as error:
            await _say(send, str(error).encode(), 503)
        else:
            await _say(send, b"flushed")

    return app


@contextmanager
def _health(server: Server, timeout: float | None = None) -> Iterator[Any]:
    """Asks for it, and yields, once it has begun, a way to wait for the reply."""
    with server.wire() as wire:
        case = server.play(_flushing(server, timeout))
        wire.ask(case)
        eventually(lambda: server.probe.of(case))
        yield wire.reply


@pytest.mark.contract("D04", "S05")
def test_it_returns_when_what_was_accepted_before_has_settled(server: Server) -> None:
    """Nested effects and their events included; what comes after it does not keep it."""
    with Gate() as gate, Gate() as later, ExitStack() as stack:

        async def effect() -> None:
            await gate.passed()
            after(nested)

        async def nested() -> None:
            server.probe.schedule()

        case = server.scheduled(effect)
        gate.reached()
        health = stack.enter_context(_health(server))
        server.scheduled(later.passed)
        later.reached()
        assert server.probe.of(case) == []
        gate.open()
        reply: Reply = health()
        assert (reply.status, reply.body) == (200, b"flushed")
        assert server.probe.of(case) == ["always", "success"]
        assert len(server.probe.events_of(case)) == 1
        assert not later.is_open


@pytest.mark.contract("D04")
def test_it_raises_when_that_takes_too_long(server: Server) -> None:
    """`TimeoutError` says where how much is left; nothing is cancelled by it, and the server goes on."""
    with Gate() as gate:
        case = server.scheduled(gate.passed, server.probe.schedule)
        gate.reached()
        with _health(server, timeout=0.01) as health:
            reply: Reply = health()
        assert reply.status == 503
        assert b"not settled within 0.01 s (callables: " in reply.body
        gate.open()
        assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("D04", "S01")
def test_a_handler_does_not_wait_for_its_own_effects(server: Server) -> None:
    """They are accepted when its response is over: a handler that flushes would wait for itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await server.fx.flush(timeout=PATIENCE)
        assert server.probe.of(case) == []
        await whole(scope, receive, send)

    case = server.play(app)
    reply, _ = server.get(case=case)
    assert reply.status == 200
    assert server.settled(case) == ["always", "success"]


@pytest.mark.contract("D04")
def test_many_wait_at_once(server: Server) -> None:
    """One whose client leaves takes nothing from the others."""
    with Gate() as gate, ExitStack() as stack:
        case = server.scheduled(gate.passed, Happened(what="event"))
        gate.reached()
        replies = [stack.enter_context(_health(server)) for _ in range(5)]
        with _health(server):
            pass  # a client that leaves before its reply
        gate.open()
        for reply in replies:
            assert reply().body == b"flushed"
        assert [event.what for event in server.probe.events_of(case)] == ["event"]
