"""Start, drain and end of a runtime, again, in threads, and beside others."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from sidefx import NotRunningError, RuntimeOptions, SideEffects, after
from tests.hostile import noop
from tests.orders import Stocked

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable")


@pytest.mark.contract("S10")
async def test_cancelling_the_block_is_not_swallowed() -> None:
    """What was scheduled is drained, and then the cancellation goes on."""
    ran: list[str] = []
    with anyio.CancelScope() as bounds:
        async with SideEffects():
            after(ran.append, "drained")
            bounds.cancel()
            await anyio.sleep_forever()
    assert bounds.cancelled_caught
    assert ran == ["drained"]


@pytest.mark.contract("S10")
async def test_an_effect_that_swallows_its_cancellation_does_not_survive_the_drain() -> None:
    """The drain ends at its deadline, and counts what it had to leave."""

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            swallowed.append(True)

    swallowed: list[bool] = []
    async with SideEffects(runtime=RuntimeOptions(drain_timeout=0.02)) as fx:
        after(stubborn)
        await anyio.wait_all_tasks_blocked()
    assert swallowed == [True]
    assert fx.stats().callables.dropped == {"shutdown": 1}


async def test_with_several_running_the_context_decides() -> None:
    """In a block it is that block's; in a thread without context it raises, and names `bind`."""
    first: list[str] = []
    async with SideEffects(name="one") as one:
        async with SideEffects(name="two") as two:
            after(noop)
            await two.flush(5)
            assert two.stats().callables.accepted == 1
            with ThreadPoolExecutor(1) as pool:
                with pytest.raises(NotRunningError, match=r"fx\.bind"):
                    pool.submit(after, noop).result()
                pool.submit(two.bind(after), noop).result()
            await two.flush(5)
            assert two.stats().callables.accepted == 2
        after(first.append, "one")
        await one.flush(5)
        assert one.stats().callables.accepted == 1


@pytest.mark.contract("D02")
async def test_what_is_left_at_the_end_of_the_drain_is_listed_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelled, counted, and one line that says what and how many."""

    async def stuck(event: Stocked) -> None:
        await anyio.sleep_forever()

    async with SideEffects({"s": stuck}, runtime=RuntimeOptions(drain_timeout=0.02)) as fx:
        after(Stocked())
        after(Stocked())
        after(anyio.sleep_forever, name="napping")
    with caplog.at_level(logging.ERROR):
        [line] = [record.getMessage() for record in caplog.records if "not finished at shutdown" in record.getMessage()]
    assert "sinks.s: test.stocked × 2" in line
    assert "callables: napping × 1" in line
    assert fx.stats().sinks["s"].dropped == {"shutdown": 2}


async def test_a_runtime_can_be_started_again() -> None:
    """A test client or a reload does so; the counts go on."""
    ran: list[int] = []
    fx = SideEffects()
    for n in range(3):
        async with fx:
            after(ran.append, n)
    assert ran == [0, 1, 2]
    assert fx.stats().callables.delivered == 3


async def test_a_runtime_runs_once_at_a_time() -> None:
    """Two would share their lanes."""
    async with SideEffects() as fx:
        with pytest.raises(NotRunningError, match="running already"):
            await fx.start()


def test_a_synchronous_program_runs_it_in_a_thread() -> None:
    """`with SideEffects(...)`: scheduled from any function, drained at the end of the block."""
    ran: list[Any] = []

    async def sink(event: Stocked) -> None:
        ran.append(event.sku)

    with SideEffects({"s": sink}) as fx:
        after(Stocked(sku="x"))
        fx.flush_blocking(5)
        assert ran == ["x"]
        with fx.scope("job"):
            after(ran.append, "y")
            assert ran == ["x"]
        after(noop)
    assert ran == ["x", "y"]
    assert fx.stats().callables.delivered == 2


@pytest.mark.contract("X01")
async def test_a_runtime_in_a_thread_takes_effects_of_any_event_loop() -> None:
    """Its loop is asyncio's; what was scheduled under trio runs there all the same, in its own context variables."""
    variable.set("of the caller")
    ran: list[str] = []

    async def effect() -> None:
        await anyio.lowlevel.checkpoint()
        ran.append(variable.get())

    with SideEffects() as fx:
        after(effect)
        fx.flush_blocking(5)
        assert fx.stats().callables.delivered == 1
    assert ran == ["of the caller"]
