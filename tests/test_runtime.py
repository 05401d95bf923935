"""The runtime starts, stops and starts again, on any loop and beside another."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading

import anyio
import anyio.to_thread
import pytest

from sidefx import NotRunningError, RuntimeOptions, SideEffects, SidefxError, SinkStartError, after
from tests.hostile import Made, Opening, accepts, assert_alive, hang, noop

pytestmark = pytest.mark.anyio


@pytest.mark.contract("S10")
async def test_a_start_that_hangs_can_be_cancelled() -> None:
    """Those that were open are closed again, and it can be started later."""
    first, second = Opening(), Opening(enter=anyio.sleep_forever)
    fx = SideEffects({"first": first, "second": second})
    with anyio.move_on_after(0.02) as bounds:
        await fx.start()
    assert bounds.cancelled_caught
    assert not fx.running
    assert first.closed
    second.enter = noop
    async with fx:
        await assert_alive(fx)


def test_a_synchronous_program_hears_of_a_start_that_fails() -> None:
    """Its thread has ended, and nothing is running."""

    async def enter() -> None:
        raise RuntimeError("nothing there")

    with pytest.raises(SinkStartError, match="nothing there"), SideEffects({"s": Opening(enter=enter)}):
        pass
    assert "sidefx" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(NotRunningError):
        after(noop)


@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_an_event_loop_that_ends_without_a_stop_loses_nothing_unseen(first: str, second: str) -> None:
    """Sinks are closed, what was left is counted, nothing is announced any more, and it starts on another loop."""

    async def leave() -> None:
        await anyio.sleep(0.001)  # closing a client takes a turn or two

    held = Opening(leave=leave)
    held.send = hang  # type: ignore[method-assign]
    fx = SideEffects({"s": held})

    async def forgetful() -> None:
        await fx.start()
        for n in range(3):
            await fx.emit(Made(n=n))
        after(anyio.sleep_forever)
        with pytest.raises(TimeoutError):
            await fx.flush(0.01)
        after(noop)

    async def again() -> None:
        async with fx:
            await assert_alive(fx)

    anyio.run(forgetful, backend=first)
    stats = fx.stats()
    assert held.closed
    assert stats.sinks["s"].dropped == {"shutdown": 3}
    assert stats.callables.accepted == stats.callables.settled == 2
    assert stats.sinks["s"].in_flight == stats.callables.in_flight == 0
    with pytest.raises(NotRunningError):
        after(noop)
    held.send = accepts  # type: ignore[method-assign]
    anyio.run(again, backend=second)


CLOSED_LOOP = """
import asyncio, logging, os
from sidefx import NotRunningError, SideEffects, after

logging.basicConfig(format="%(message)s")
fx = SideEffects()
loop = asyncio.new_event_loop()
loop.run_until_complete(fx.start())
with fx.scope():
    after(print, "never")
    loop.close()
for call in (after, fx.bind(after)):
    try:
        call(print, "never")
    except NotRunningError:
        print("raised", flush=True)
os._exit(0)  # without asyncio's complaint of the tasks that were left
"""


@pytest.mark.contract("S11")
def test_a_loop_that_was_closed_under_the_runtime_is_no_place_to_schedule() -> None:
    """On asyncio, with tasks in it: `after()` raises then, and what was waiting is logged as lost."""
    program = subprocess.run(
        [sys.executable, "-c", CLOSED_LOOP], capture_output=True, text=True, check=True, timeout=60
    )
    assert program.stdout == "raised\nraised\n"
    assert "1 effect(s) are lost" in program.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sink_that_does_not_close_holds_no_event_loop_that_ends(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody stops the runtime, closing is bounded all the same."""
    fx = SideEffects({"s": Opening(leave=anyio.sleep_forever)}, runtime=RuntimeOptions(drain_timeout=0.05))
    anyio.run(fx.start, backend=backend)
    assert not fx.running


async def test_stopping_twice_at_once_is_stopping_once() -> None:
    """Both wait until it has ended."""
    fx = SideEffects(runtime=RuntimeOptions(drain_timeout=0.02))
    await fx.start()
    after_in_fx = fx.bind(after)
    after_in_fx(anyio.sleep_forever)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fx.stop)
        tasks.start_soon(fx.stop)
    assert not fx.running
    assert fx.stats().callables.dropped == {"shutdown": 1}
    await fx.stop()


async def test_an_effect_cannot_stop_its_own_runtime() -> None:
    """It would wait for itself for ever."""
    errors: list[Exception] = []
    async with SideEffects(runtime=RuntimeOptions(drain_timeout=0.1)) as fx:

        async def stopping() -> None:
            try:
                await fx.stop()
            except SidefxError as error:
                errors.append(error)

        after(stopping)
        await fx.flush(5)
    assert "wait for itself" in str(errors[0])


async def test_a_runtime_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing helps, the log has it, what was left is counted, and `after()` raises."""

    async def broken(*_: object) -> None:
        raise RuntimeError("a worse bug")

    monkeypatch.setattr("sidefx.lanes.batch.Batcher.next", broken)
    fx = SideEffects({"s": accepts})
    await fx.start()
    await anyio.wait_all_tasks_blocked()
    assert "a worse bug" in caplog.text
    with pytest.raises(NotRunningError):
        after(noop)
    await fx.stop()


@pytest.mark.contract("S05")
async def test_an_effect_of_one_runtime_may_use_another() -> None:
    """It may start, flush and end it; what it schedules there is waited for there."""
    ran: list[str] = []

    async def outer() -> None:
        async with SideEffects(name="inner") as inner:
            after(ran.append, "flushed")
            await inner.flush(5)
            ran.append("between")
            after(ran.append, "drained")

    async with SideEffects(name="outer") as fx:
        after(outer)
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1
    assert ran == ["flushed", "between", "drained"]


async def test_another_threads_loop_is_told_where_the_runtime_runs() -> None:
    """Waiting there would never end; it raises instead."""
    errors: list[Exception] = []
    async with SideEffects() as fx:

        async def elsewhere() -> None:
            for call in (fx.flush(1), fx.emit(Made())):
                try:
                    await call
                except SidefxError as error:
                    errors.append(error)

        await anyio.to_thread.run_sync(anyio.run, elsewhere)
    assert len(errors) == 2


@pytest.mark.contract("X04")
async def test_sinks_do_not_see_the_variables_of_whoever_started_the_runtime() -> None:
    """It may have been the first request."""
    user = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    async def looks(event: Made) -> None:
        seen.append(user.get())

    fx = SideEffects({"s": looks})
    user.set("ann")
    await fx.start()
    await fx.emit(Made())
    await fx.stop()
    assert seen == ["nobody"]
