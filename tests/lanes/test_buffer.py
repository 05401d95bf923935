"""What a full lane does."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import pytest

from sidefx import BufferOptions, Event, Settled, SideEffects, SinkOptions, after
from tests.hostile import Made, accepts
from tests.lanes.sinks import Hung, Numbered, One

pytestmark = pytest.mark.anyio


def options(max_events: int, when_full: str) -> SinkOptions:
    """A lane with such a buffer."""
    return SinkOptions(buffer=BufferOptions(max_events=max_events, when_full=when_full), timeout=5.0)  # type: ignore[arg-type]


async def flood(fx: SideEffects, count: int) -> None:
    """One event for the sink to hold, and then so many more."""
    after(Numbered(n=0))
    await anyio.sleep(0.01)
    for n in range(1, count + 1):
        after(Numbered(n=n))
    await anyio.sleep(0.01)


@pytest.mark.contract("L08")
@pytest.mark.parametrize(
    ("when_full", "kept"),
    [("drop_newest", [0, 1, 2, 3]), ("drop_oldest", [0, 8, 9, 10]), ("block", [0, 1, 2, 3, 4, 5, 6])],
)
async def test_each_policy_keeps_what_it_says(
    when_full: str, kept: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Drops are counted by reason and logged; `block` with nobody to hold takes twice its size."""
    sink = One(delay=0.5)
    settled: list[Settled] = []
    async with SideEffects({"s": sink}, {"s": options(3, when_full)}, observers=[settled.append]) as fx:
        await flood(fx, 10)
        await fx.flush()
        stats = fx.stats().sinks["s"]
    assert sink.delivered == kept
    assert stats.dropped == {"full": 11 - len(kept)}
    dropped = [
        record.event.n for record in settled if record.result == "dropped" and isinstance(record.event, Numbered)
    ]
    assert sorted(dropped + kept) == list(range(11))
    assert {record.reason for record in settled if record.result == "dropped"} == {"full"}
    assert "dropped (full)" in caplog.text


@pytest.mark.contract("L08")
async def test_block_makes_emit_wait_for_room() -> None:
    """`emit` returns once the buffer is within its bound; nothing is dropped."""
    sink = One(delay=1.0)
    async with SideEffects({"s": sink}, {"s": options(2, "block")}) as fx:
        start = anyio.current_time()
        waited = []
        for n in range(6):
            await fx.emit(Numbered(n=n))
            waited.append(round(anyio.current_time() - start))
        await fx.flush()
        assert fx.stats().sinks["s"].dropped == {}
    assert sink.delivered == [0, 1, 2, 3, 4, 5]
    assert waited[:2] == [0, 0]
    assert waited[-1] >= 3


@pytest.mark.contract("L08")
async def test_block_holds_the_finished_unit_of_work() -> None:
    """A scope ends once its events are within the bound; many holders at once lose nothing."""
    sink = One(delay=1.0)
    async with SideEffects({"s": sink}, {"s": options(2, "block")}) as fx:

        async def job(first: int) -> None:
            async with fx.scope("job"):
                for n in range(first, first + 5):
                    after(Numbered(n=n))

        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for first in (0, 5, 10):
                tasks.start_soon(job, first)
        assert anyio.current_time() - start >= 12.0
        await fx.flush()
        assert fx.stats().sinks["s"].dropped == {}
    assert len(sink.delivered) == 15


async def test_a_flood_of_drops_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Logging each of a million drops would hurt what the buffer protects; the next line counts them."""
    async with SideEffects({"s": Hung()}, {"s": options(1, "drop_newest")}) as fx:
        with caplog.at_level(logging.ERROR):
            await flood(fx, 1_000)
        assert fx.stats().sinks["s"].dropped == {"full": 999}
        assert caplog.text.count("dropped (full)") == 1


@pytest.mark.contract("L08")
async def test_block_holds_for_what_an_event_stands_for() -> None:
    """Events from `effects()` are held as their event is, not dropped."""

    class Many(Event, kind="test.many"):
        def effects(self) -> Iterator[Event]:
            yield from (Made(n=n) for n in range(10))

    options = SinkOptions(buffer=BufferOptions(max_events=2, when_full="block"))
    async with SideEffects({"s": accepts}, {"s": options}) as fx:
        await fx.emit(Many())
        assert fx.stats().sinks["s"].queued <= 2
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 10
