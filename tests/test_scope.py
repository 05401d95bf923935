"""Scopes that end late, and calls outside of any."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sidefx import Settled, SideEffects, after
from tests.hostile import Made, Opening, accepts

pytestmark = pytest.mark.anyio


@pytest.mark.contract("S12", "S13")
async def test_outside_of_any_scope_nothing_fails() -> None:
    """`when="error"` has nothing to wait for, in a thread without a context as in the runtime's block."""
    ran: list[str] = []

    def in_thread() -> None:
        for when in ("always", "success", "error"):
            after(ran.append, when, when=when)  # type: ignore[arg-type]

    async with SideEffects() as fx:
        thread = threading.Thread(target=in_thread)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        after(ran.append, "block", when="error")
        await fx.flush(5)
    assert sorted(ran) == ["always", "success"]


@pytest.mark.contract("S06", "D02")
async def test_what_is_released_while_the_sinks_close_is_counted() -> None:
    """A request that ends between the drain and the last sink's closing loses nothing unseen."""
    closing, close = anyio.Event(), anyio.Event()

    async def leave() -> None:
        closing.set()
        await close.wait()

    fx = SideEffects({"s": Opening(leave=leave)})
    await fx.start()
    request = fx.scope()
    request.__enter__()
    after(Made())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fx.stop)
        await closing.wait()
        request.__exit__(None, None, None)
        close.set()
    stats = fx.stats().sinks["s"]
    assert (stats.accepted, stats.dropped) == (1, {"shutdown": 1})


@pytest.mark.contract("S06", "S12", "D02")
async def test_scopes_that_end_after_the_runtime_in_many_threads_are_counted() -> None:
    """Each effect settles once, and closing raises nothing."""
    records: list[Settled] = []
    fx = SideEffects({"s": accepts}, observers=[records.append])
    scopes = []
    async with fx:
        for n in range(200):
            with_event = fx.scope()
            scopes.append(with_event)
            with_event.__enter__()
            after(Made(n=n))
    errors: list[BaseException] = []

    def close(part: list[Any]) -> None:
        try:
            for block in part:
                block.__exit__(None, None, None)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=close, args=(scopes[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert errors == []
    assert fx.stats().sinks["s"].dropped == {"shutdown": 200}
    assert len(records) == 200
