"""The end of the drain: what was taken is counted, nobody is held, nothing starts any more."""

from __future__ import annotations

import threading
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest

from sidefx import BufferOptions, CallableOptions, NotRunningError, RuntimeOptions, SideEffects, SinkOptions, after
from tests.hostile import Made, hang, sync_noop

pytestmark = pytest.mark.anyio


@pytest.mark.contract("S12", "D02")
async def test_threads_that_schedule_until_the_very_end_lose_nothing_unseen() -> None:
    """Whatever `after()` took without raising is in the counts."""
    taken = [0] * 4
    runtime = RuntimeOptions(drain_timeout=0.05, callables=CallableOptions(max_queued=1_000_000))
    fx = SideEffects(runtime=runtime)
    busy = threading.Event()
    async with fx:
        bound = fx.bind(after)

        def storm(thread: int) -> None:
            while True:
                try:
                    bound(sync_noop)
                except NotRunningError:
                    return
                taken[thread] += 1
                busy.set()

        threads = [threading.Thread(target=storm, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        await anyio.to_thread.run_sync(busy.wait)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    stats = fx.stats().callables
    assert stats.accepted == stats.settled == sum(taken)


@pytest.mark.contract("D02")
async def test_what_waits_at_the_end_of_the_drain_is_not_started_any_more() -> None:
    """An effect that swallows its cancellation makes no room for the next."""
    started: list[str] = []

    async def stubborn() -> None:
        with suppress(BaseException):
            await anyio.sleep_forever()

    runtime = RuntimeOptions(drain_timeout=0.02, callables=CallableOptions(concurrency=1))
    async with SideEffects(runtime=runtime) as fx:
        after(stubborn)
        after(started.append, "next")
    assert started == []
    assert fx.stats().callables.dropped == {"shutdown": 1}


@pytest.mark.contract("D02")
async def test_the_list_of_what_is_left_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """A name for each effect makes no line of a megabyte."""
    async with SideEffects(runtime=RuntimeOptions(drain_timeout=0.01)):
        for n in range(2_000):
            after(anyio.sleep_forever, name=f"order {n}")
    [line] = [text for record in caplog.records if "not finished" in (text := record.getMessage())]
    assert line.startswith("2000 effect(s)")
    assert len(line) < 2_000


@pytest.mark.contract("L08", "D02")
async def test_whoever_is_held_is_let_go_when_the_runtime_ends() -> None:
    """A request that waits for its events to be routed does not wait for ever."""
    options = SinkOptions(buffer=BufferOptions(max_events=1, when_full="block"))
    fx = SideEffects({"s": hang}, {"s": options}, runtime=RuntimeOptions(drain_timeout=0.01))
    await fx.start()

    begun = anyio.Event()

    async def request() -> None:
        async with fx.scope():
            begun.set()
            for n in range(600):
                after(Made(n=n))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request)
            await begun.wait()
            fx.engine._stopping.set()
            await fx.stop()
    assert fx.stats().sinks["s"].settled == fx.stats().sinks["s"].accepted
