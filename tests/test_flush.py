"""`flush()`: what it waits for, and what it does not."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from sidefx import SideEffects, SidefxError, after
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
