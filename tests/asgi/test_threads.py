"""`after()` from other threads, in the midst of a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import anyio.to_thread
import pytest
import trio

import sidefx
from sidefx import after
from tests.asgi.probe import Gate, Happened, eventually, until
from tests.asgi.servers import Server, body, start, whole

MANY = 20


async def _the_event_loops_own(function: Callable[[], object]) -> None:
    in_thread: Any = trio.to_thread.run_sync if _on_trio() else asyncio.to_thread
    await in_thread(function)


def _on_trio() -> bool:
    return trio.lowlevel.in_trio_task()


async def _a_thread_with_a_copied_context(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=copy_context().run, args=(function,))
    thread.start()
    await until(lambda: not thread.is_alive())


WAYS: dict[str, Any] = {
    "anyio.to_thread": anyio.to_thread.run_sync,
    "asyncio.to_thread, or trio's": _the_event_loops_own,
    "a thread with a copied context": _a_thread_with_a_copied_context,
}


@pytest.mark.contract("S12", "S01", "X01")
@pytest.mark.parametrize("way", WAYS)
def test_a_thread_of_the_request(server: Server, way: str) -> None:
    """What it schedules is the request's: it waits for the response, goes by its outcome, and nothing is lost."""
    with Gate() as gate:

        def schedule() -> None:
            for _ in range(MANY):
                server.probe.schedule()
            gate.passed_blocking()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start(200, ("content-length", "2")))
            await WAYS[way](schedule)
            await send(body(b"ok"))

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            gate.reached()
            _, bystander = server.get(case=server.play(whole))
            server.settled(bystander)  # the runtime is awake and has done all that was due
            assert server.probe.of(case) == []
            assert server.probe.events_of(case) == []
            gate.open()
            assert wire.reply().body == b"ok"
    assert sorted(server.settled(case)) == ["always"] * MANY + ["success"] * MANY
    assert len(server.probe.events_of(case)) == MANY


@pytest.mark.contract("S11", "S12")
def test_a_thread_of_nobodys(server: Server) -> None:
    """An executor's thread knows of no request: what it schedules is released at once, and nothing is lost."""
    with ThreadPoolExecutor() as executor, Gate() as gate:

        def schedule(number: int) -> None:
            assert sidefx.request() is None
            after(server.probe.note, number, case)
            after(Happened(what=f"{case}, {number}"))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for number in range(MANY):
                executor.submit(schedule, number)
            await gate.passed()
            await whole(scope, receive, send)

        case = server.play(app)
        with server.wire() as wire:
            wire.ask(case)
            gate.reached()
            eventually(lambda: len(server.probe.of(case)) == MANY)
            eventually(lambda: len(_of_nobody(server, case)) == MANY)
            gate.open()
            assert wire.reply().body == b"ok"
    assert sorted(server.settled(case)) == list(range(MANY))
    assert [event for event in _of_nobody(server, case) if event.request is not None] == []


def _of_nobody(server: Server, case: str) -> list[Happened]:
    return [event for event in server.probe.delivered if event.what.startswith(f"{case},")]


@pytest.mark.contract("S12")
def test_a_thread_that_is_given_the_scope(server: Server) -> None:
    """`bind` carries the request into an executor's thread by hand."""
    with ThreadPoolExecutor() as executor:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            submitted = executor.submit(server.fx.bind(server.probe.schedule))
            await until(submitted.done)
            submitted.result()
            server.probe.note("response")
            await whole(scope, receive, send)

        reply, case = server.get(case=server.play(app))
        assert reply.body == b"ok"
    assert server.settled(case)[0] == "response"
    assert sorted(server.probe.of(case)[1:]) == ["always", "success"]
    assert len(server.probe.events_of(case)) == 1


@pytest.mark.contract("S06", "S12")
def test_threads_that_outlive_the_request(server: Server) -> None:
    """Threads that go on scheduling while the request ends, and after it, lose nothing, and run nothing themselves."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    ran_in: list[str] = []

    def note(number: int) -> None:
        ran_in.append(threading.current_thread().name)
        server.probe.note(number)

    def schedule(first: int) -> None:
        after(note, first)
        assert over.wait(15)
        for number in range(first + 1, first + MANY):
            after(note, number)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for index in range(4):
            thread = threading.Thread(
                target=copy_context().run, args=(schedule, index * MANY), name="the request's own"
            )
            threads.append(thread)
            thread.start()
        await send(start(200, ("content-length", "2")))
        over.set()
        await send(body(b"ok"))

    reply, case = server.get(case=server.play(app))
    assert reply.body == b"ok"
    server.over(case)
    for thread in threads:
        thread.join()
    assert sorted(server.settled(case)) == list(range(4 * MANY))
    assert "requested" not in ran_in
