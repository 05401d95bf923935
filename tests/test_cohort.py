"""What a flush waits for."""

from __future__ import annotations

import anyio
import pytest

from sidefx import SideEffects, after
from tests.hostile import noop

pytestmark = pytest.mark.anyio


@pytest.mark.contract("D04", "S05")
async def test_a_flush_after_one_that_timed_out_waits_for_nested_effects_too() -> None:
    """What an effect of the first flush's time schedules belongs to the second flush as well."""
    order: list[str] = []
    start_child, end_child = anyio.Event(), anyio.Event()

    async def child() -> None:
        await end_child.wait()
        order.append("child")

    async def parent() -> None:
        await start_child.wait()
        after(child)

    async with SideEffects() as fx:

        async def flushing() -> None:
            await fx.flush(5)
            order.append("flushed")

        after(parent)
        with pytest.raises(TimeoutError):
            await fx.flush(0.01)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flushing)
            await anyio.wait_all_tasks_blocked()
            start_child.set()
            await anyio.wait_all_tasks_blocked()
            end_child.set()
    assert order == ["child", "flushed"]


@pytest.mark.contract("D04")
async def test_a_cancelled_flush_leaves_nothing_behind() -> None:
    """Flushes bounded from outside do not add up."""
    gate = anyio.Event()
    async with SideEffects() as fx:
        after(gate.wait)
        for _ in range(5):
            with anyio.move_on_after(0.001):
                await fx.flush()
        assert len(fx.engine.dispatcher._cohorts) <= 2
        gate.set()
        await fx.flush(5)
        assert len(fx.engine.dispatcher._cohorts) == 1


@pytest.mark.contract("D04")
async def test_a_flush_that_times_out_at_once_names_what_is_in_no_lane_yet() -> None:
    """What has been accepted and not routed is left over too."""
    async with SideEffects() as fx:
        after(noop)
        with pytest.raises(TimeoutError, match="on the way to their lanes: 1"):
            await fx.flush(0)
