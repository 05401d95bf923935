"""`flush()`: what it waits for, and what it does not."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from sidefx import NotRunningError, SideEffects, SidefxError, after
from tests.hostile import noop
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.contract("D04")
async def test_flush_waits_for_what_was_accepted_before_it_and_no_more() -> None:
    """A steady stream of later effects does not keep it from returning."""
    gate = anyio.Event()
    async with SideEffects() as fx:
        after(noop)
        await fx.flush(5)

        async def flushing() -> None:
            await fx.flush(5)
            gate.set()

        async def held() -> None:
            await gate.wait()

        async with anyio.create_task_group() as tasks:
            after(noop)
            tasks.start_soon(flushing)
            await anyio.wait_all_tasks_blocked()
            after(held)


@pytest.mark.contract("D04")
async def test_flush_raises_where_it_takes_too_long_and_cancels_nothing() -> None:
    """A `TimeoutError` that names what is left."""
    gate = anyio.Event()
    async with SideEffects() as fx:
        after(gate.wait)
        await until(lambda: fx.stats().callables.in_flight)
        with pytest.raises(TimeoutError, match="callables: 1"):
            await fx.flush(0.01)
        gate.set()
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1


async def test_flush_from_inside_an_effect_raises() -> None:
    """It would wait for itself."""
    errors: list[Exception] = []

    async with SideEffects() as fx:

        async def flushing() -> None:
            try:
                await fx.flush()
            except SidefxError as error:
                errors.append(error)

        after(flushing)
        await fx.flush(5)
    assert "wait for itself" in str(errors[0])


@pytest.mark.contract("D04", "S12")
async def test_a_thread_can_wait_for_the_runtime_of_an_event_loop() -> None:
    """As a synchronous test does, for the runtime that its client's app runs; on that loop itself it is refused."""
    ran: list[str] = []

    async def slow() -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        ran.append("slow")

    async with SideEffects() as fx:
        after(slow)
        with pytest.raises(SidefxError, match="await flush"):
            fx.flush_blocking(5)
        await anyio.to_thread.run_sync(fx.flush_blocking, 5)
        assert ran == ["slow"]
        after(anyio.sleep_forever, timeout=0.05)
        with pytest.raises(TimeoutError):
            await anyio.to_thread.run_sync(fx.flush_blocking, 0.001)
    with pytest.raises(NotRunningError):
        fx.flush_blocking(5)
