"""From `after()` to the lanes: what an event stands for, and what comes from threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from sidefx import Event, SideEffects, after
from tests.hostile import HOW, Made, accepts, assert_alive, misbehave

pytestmark = pytest.mark.anyio


class Fans(Event, kind="test.fans"):
    """An event whose `effects()` misbehaves."""

    how: str = ""

    def effects(self) -> Iterator[Event]:
        yield Made()
        misbehave(self.how)


@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_fan_out_ends_the_runtime(how: str) -> None:
    """What it had yielded is delivered."""
    async with SideEffects({"s": accepts}) as fx:
        after(Fans(how=how))
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 1
        await assert_alive(fx)


async def test_a_flood_from_threads_wakes_the_event_loop_once() -> None:
    """What comes before it has looked is taken in together: wake-ups that pile up would starve all else."""
    wakes: list[object] = []
    async with SideEffects({"s": accepts}) as fx:
        soon = fx.engine.dispatcher.soon

        def counted(call: Callable[[], object]) -> None:
            wakes.append(call)
            soon(call)

        fx.engine.dispatcher.soon = counted
        bound = fx.bind(after)
        for _ in range(2):
            thread = threading.Thread(target=lambda: [bound(Made(n=n)) for n in range(50)])
            thread.start()
            thread.join()  # without a turn for the event loop
        assert len(wakes) == 1
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 100
