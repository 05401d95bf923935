"""What was given up is kept, seen from anywhere, and sent again."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest

from sidefx import BufferOptions, PermanentError, RuntimeOptions, SideEffects, SinkOptions
from tests.hostile import Made

pytestmark = pytest.mark.anyio


async def test_stats_may_be_looked_at_from_any_thread() -> None:
    """While dead letters come and go."""
    errors: list[Exception] = []
    done = threading.Event()

    async def refuses(event: Made) -> None:
        raise PermanentError("no")

    def look() -> None:
        try:
            while not done.is_set():
                str(fx.stats())
                fx.health()
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    async with SideEffects({"s": refuses}, runtime=RuntimeOptions(dead_letters=50)) as fx:
        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(500):
            await fx.emit(Made(n=n))
        await fx.flush(20)
        done.set()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
    assert errors == []


async def test_a_replay_drops_nothing_for_lack_of_room() -> None:
    """What does not fit into the lane stays with the dead letters."""
    gate = anyio.Event()
    refused: set[int] = set()

    async def choosy(event: Made) -> None:
        if event.n not in refused:
            refused.add(event.n)
            raise PermanentError("not yet")
        await gate.wait()

    options = SinkOptions(buffer=BufferOptions(max_events=3))
    async with SideEffects({"s": choosy}, {"s": options}) as fx:
        for n in range(5):
            await fx.emit(Made(n=n))
            await fx.flush(5)
        assert len(fx.dead_letters) == 5
        assert await fx.replay() == 3
        assert len(fx.dead_letters) == 2
        gate.set()
        await fx.flush(5)
        assert await fx.replay() == 2
        await fx.flush(5)
        stats = fx.stats().sinks["s"]
    assert (stats.delivered, stats.dropped) == (5, {})
