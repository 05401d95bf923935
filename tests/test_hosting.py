"""Sinks for asyncio alone, under trio, on a loop of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from sidefx import RuntimeOptions, SideEffects, SinkOptions, after
from tests.hostile import HOW, QUICK, Made, misbehave, noop

pytestmark = pytest.mark.anyio


class Hosted:
    """A sink for asyncio alone."""

    backend = "asyncio"

    def __init__(self, act: Any = None) -> None:
        self.act = act
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def send(self, event: Made) -> None:
        self.loops.add(asyncio.get_running_loop())
        if self.act is not None:
            await self.act()


def hosts() -> int:
    """How many loops for asyncio sinks there are."""
    return sum(thread.name == "sidefx-asyncio-host" for thread in threading.enumerate())


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_first_calls_at_once_start_one_loop() -> None:
    """Sinks that open nothing have their first call in a lane, several at a time."""
    one, two = Hosted(), Hosted()
    options = SinkOptions(concurrency=4)
    async with SideEffects({"one": one, "two": two}, {"one": options, "two": options}) as fx:
        for n in range(8):
            after(Made(n=n))
        await fx.flush(5)
        assert hosts() == 1
        assert one.loops == two.loops
    assert hosts() == 0


@pytest.mark.contract("L01")
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_hosted_sink_that_blocks_its_loop_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the app's loop nor, in the end, its shutdown."""
    monkeypatch.setattr("sidefx.hosting._STOP_SECONDS", 0.05)
    blocked, gate = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        gate.wait(30)

    runtime = RuntimeOptions(drain_timeout=0.05)
    async with SideEffects({"blocking": Hosted(block), "other": Hosted()}, runtime=runtime) as fx:
        after(Made())
        await anyio.to_thread.run_sync(blocked.wait)
        after(Made())
        after(noop)
        await anyio.wait_all_tasks_blocked()
        assert fx.stats().callables.delivered == 1
    assert not gate.is_set()
    gate.set()
    with anyio.fail_after(5):
        while hosts():  # noqa: ASYNC110 - a thread ends without telling
            await anyio.sleep(0.001)


@pytest.mark.contract("L01")
@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_hosted_sink_ends_its_loop(how: str) -> None:
    """Not even an exit: the other hosted sinks, and its next attempt, find it running."""
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            misbehave(how)

    async with SideEffects({"s": Hosted(once)}, {"s": QUICK}) as fx:
        after(Made())
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 1


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_hosted_sink_is_on_asyncio_in_every_respect() -> None:
    """Libraries that ask where they run are told so; what it schedules is for its own runtime."""
    ran: list[str] = []

    async def look() -> None:
        await anyio.to_thread.run_sync(ran.append, "in a thread")
        await anyio.lowlevel.checkpoint()
        after(ran.append, "scheduled")

    async with SideEffects(name="one"), SideEffects({"s": Hosted(look)}, name="two") as fx:
        after(Made())
        await fx.flush(5)
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1
    assert ran == ["in a thread", "scheduled"]
