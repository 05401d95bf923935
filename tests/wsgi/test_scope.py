"""When effects start, and where `after()` finds its request."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

import sidefx
from sidefx import NotRunningError, SideEffects, after
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Gate, Happened, Probe
from tests.wsgi.by_hand import called, environ_of, served

TEXT = [("Content-Type", "text/plain")]


@pytest.mark.contract("S01", "W01")
def test_nothing_starts_before_the_response_is_closed(fx: SideEffects, probe: Probe) -> None:
    """Not when the app has returned, not when its body was sent: when the server has closed it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe.schedule()
        start_response("200 OK", TEXT)
        return [b"one"]

    response = called(SideEffectsMiddleware(app, effects=fx))
    fx.flush_blocking(10)
    assert list(response.iterable) == [b"one"]
    fx.flush_blocking(10)
    assert (probe.notes, probe.delivered) == ([], [])

    response.close()
    fx.flush_blocking(10)
    assert probe.of("case") == ["always", "success"]
    assert [event.what for event in probe.events_of("case")] == ["event"]


@pytest.mark.contract("W01", "L01")
def test_closing_waits_for_nothing(fx: SideEffects, probe: Probe) -> None:
    """It returns while effects of its own block, in a thread and on the event loop alike."""
    with Gate() as gate, Gate() as other_gate:

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            after(gate.passed_blocking)
            after(other_gate.passed)
            start_response("200 OK", TEXT)
            return [b"one"]

        served(SideEffectsMiddleware(app, effects=fx))
        gate.reached()
        other_gate.reached()
        assert fx.stats().callables.in_flight == 2


@pytest.mark.contract("W02")
def test_a_response_that_is_closed_twice(fx: SideEffects, probe: Probe) -> None:
    """The app hears of both, as it would without the adapter; the effects run once."""
    closed: list[str] = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append("closed")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe.schedule()
        start_response("200 OK", TEXT)
        return Body([b"one"])

    response = called(SideEffectsMiddleware(app, effects=fx))
    response.send()
    response.close()
    fx.flush_blocking(10)

    assert closed == ["closed", "closed"]
    assert probe.of("case") == ["always", "success"]


@pytest.mark.contract("X02", "X05")
def test_every_step_of_the_app_is_in_the_scope_and_nothing_else(fx: SideEffects, probe: Probe) -> None:
    """The call, each piece of the body, and its closing find the request; the server's thread has none in between."""

    class Body:
        def __init__(self, case: str) -> None:
            self.pieces = iter([b"one", b"two"])
            self.case = case

        def __iter__(self) -> Iterator[bytes]:
            after(probe.note, "iter")
            return self

        def __next__(self) -> bytes:
            after(probe.note, "next")
            return next(self.pieces)

        def close(self) -> None:
            after(probe.note, "close")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        after(probe.note, "call")
        start_response("200 OK", TEXT)
        return Body(environ["HTTP_X_REQUEST_ID"])

    middleware = SideEffectsMiddleware(app, effects=fx)
    responses = {case: called(middleware, environ_of(HTTP_X_REQUEST_ID=case)) for case in ("a", "b")}
    bodies = [iter(response.iterable) for response in responses.values()]
    assert sidefx.request() is None
    for _ in range(2):  # a piece of each in turn, in one thread
        for body in bodies:
            next(body)
            assert sidefx.request() is None
    for body in bodies:
        with pytest.raises(StopIteration):
            next(body)
    for response in responses.values():
        response.close()
        assert sidefx.request() is None
    fx.flush_blocking(10)

    for case in responses:
        assert probe.of(case) == ["call", "iter", "next", "next", "next", "close"]


@pytest.mark.contract("X01")
def test_the_context_of_the_call(fx: SideEffects) -> None:
    """An effect sees context variables as they were, also where the same thread serves the next request by then."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        user.set(environ["HTTP_X_USER"])
        after(lambda: seen.append(user.get()))
        user.set("somebody else")
        start_response("204 No Content", [])
        return []

    middleware = SideEffectsMiddleware(app, effects=fx)
    with Gate() as gate:
        after(gate.passed_blocking)
        for name in ("ada", "grace"):
            served(middleware, environ_of(HTTP_X_USER=name))
    fx.flush_blocking(10)

    assert sorted(seen) == ["ada", "grace"]


@pytest.mark.contract("S03", "S05", "S06", "S12")
def test_every_kind_of_effect(fx: SideEffects, probe: Probe) -> None:
    """Synchronous and asynchronous callables, coroutines, events, nested ones, and one from a thread of the handler."""

    async def asynchronous(what: str) -> None:
        after(probe.note, f"nested in {what}")
        probe.note(what)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        after(probe.note, "sync")
        after(asynchronous, "async")
        after(asynchronous("coroutine"))
        after(Happened(what="event"))
        thread = threading.Thread(target=fx.bind(after), args=(probe.note, "thread"))
        thread.start()
        thread.join()
        start_response("204 No Content", [])
        return []

    served(SideEffectsMiddleware(app, effects=fx))
    fx.flush_blocking(10)

    assert sorted(probe.of("case")) == sorted(
        ["sync", "async", "coroutine", "thread", "nested in async", "nested in coroutine"]
    )
    assert [event.what for event in probe.events_of("case")] == ["event"]


@pytest.mark.contract("S11")
def test_after_the_runtime_has_stopped(probe: Probe) -> None:
    """A request that outlives the runtime is answered; what it schedules then raises where it is scheduled."""
    fx = SideEffects(name="of the test")
    raised: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"one"
        yield b"two"

    class Late:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            request = environ["straggler"] = fx.bind(after)
            assert request is not None
            return self.inner(environ, start_response)  # type: ignore[no-any-return]

    environ = environ_of()
    response = called(SideEffectsMiddleware(Late(app), effects=fx), environ)
    response.send()
    fx.stop_blocking()
    try:
        environ["straggler"](probe.note, "late")
    except NotRunningError as error:
        raised.append(str(error))

    assert response.body == [b"one", b"two"]
    assert len(raised) == 1
    assert probe.notes == []


@pytest.mark.contract("A16")
def test_two_adapters_keep_their_effects_apart() -> None:
    """What is scheduled under the inner one goes to its runtime, and what is around it to the outer one's."""
    inner_probe, outer_probe = Probe(), Probe()
    with (
        SideEffects({"sink": inner_probe.sink}, name="inner") as inner,
        SideEffects({"sink": outer_probe.sink}, name="outer") as outer,
    ):

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
            start_response("200 OK", TEXT)
            after(Happened(what="in the inner one"))
            yield b"one"

        mounted = SideEffectsMiddleware(app, effects=inner)

        def around(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
            after(Happened(what="before"))
            body = mounted(environ, start_response)
            yield from body
            body.close()  # type: ignore[attr-defined]  # the adapter's has it
            after(Happened(what="after"))

        served(SideEffectsMiddleware(around, effects=outer))
        inner.flush_blocking(10)
        outer.flush_blocking(10)

    assert [event.what for event in inner_probe.delivered] == ["in the inner one"]
    assert [event.what for event in outer_probe.delivered] == ["before", "after"]
