"""How many events travel together."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sidefx import AuditEvent, BatchOptions, SideEffects, SinkOptions, after, audit
from tests.lanes.sinks import Batches, Numbered, One
from tests.waiting import until

pytestmark = pytest.mark.anyio


def options(**batch: Any) -> SinkOptions:
    """A lane with such batches."""
    return SinkOptions(batch=BatchOptions(**batch))


@pytest.mark.contract("L05")
async def test_a_batch_closes_at_max_events() -> None:
    """No batch is larger, and none waits once it is full."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": options(max_events=3, linger=60.0)}):
        for n in range(6):
            after(Numbered(n=n))
        await until(lambda: len(sink.batches) == 2)
    assert sink.batches == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.contract("L05")
async def test_a_batch_closes_when_it_has_lingered() -> None:
    """It waits for more from its first event on, and no longer than `linger`."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": options(linger=5.0)}) as fx:
        start = anyio.current_time()
        await fx.emit(Numbered(n=0))
        await anyio.sleep(3.0)
        await fx.emit(Numbered(n=1))
        await anyio.sleep(3.0)
        await fx.emit(Numbered(n=2))
        await anyio.sleep(6.0)
    assert sink.batches == [[0, 1], [2]]
    assert [when - start for when in sink.times] == pytest.approx([5.0, 11.0], abs=0.1)


@pytest.mark.contract("L05")
async def test_a_batch_closes_at_max_bytes() -> None:
    """The event that would go beyond opens the next one."""
    size = len(Numbered(n=1, text="x" * 1_000).model_dump_json())
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": options(max_bytes=int(size * 2.5), linger=1.0)}) as fx:
        for n in range(5):
            after(Numbered(n=n, text="x" * 1_000))
        await fx.flush()
    assert sink.batches == [[0, 1], [2, 3], [4]]


@pytest.mark.contract("L05")
async def test_an_oversize_event_travels_by_itself() -> None:
    """One that is larger than `max_bytes` is delivered alone; its neighbours are not held up."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": options(max_bytes=2_000, linger=1.0)}) as fx:
        for n, length in enumerate((10, 5_000, 10, 10)):
            after(Numbered(n=n, text="x" * length))
        await fx.flush()
    assert sink.batches == [[0], [1], [2, 3]]


async def test_an_event_above_max_event_bytes_is_rejected() -> None:
    """It is counted and kept with a reason that names both sizes; the others are delivered."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": SinkOptions(max_event_bytes=1_000)}) as fx:
        for n, length in enumerate((10, 20_000_000, 10)):
            after(Numbered(n=n, text="x" * length))
        await fx.flush()
        [letter] = fx.dead_letters
        assert fx.stats().sinks["s"].rejected == 1
    assert [n for batch in sink.batches for n in batch] == [0, 2]
    assert "above max_event_bytes = 1,000" in letter.reason
    assert "20,000," in letter.reason


async def test_an_event_that_is_no_json_is_rejected() -> None:
    """An object that nothing can write down is refused with a reason, and nobody else suffers."""
    delivered = []

    async def sink(event: AuditEvent) -> None:
        delivered.append(event.action)

    async with SideEffects({"s": sink}) as fx:
        after(audit("bad", metadata={"what": object()}))
        after(audit("surrogate", metadata={"what": "\ud800"}))
        after(audit("good"))
        await fx.flush()
        assert {letter.reason.partition(":")[0] for letter in fx.dead_letters} == {"cannot be written as JSON"}
    assert delivered == ["good"]


async def test_a_flush_does_not_wait_for_linger() -> None:
    """Whoever flushes, or shuts down, wants it now."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": options(linger=3_600.0)}) as fx:
        after(Numbered(n=0))
        await fx.flush(timeout=1.0)
        assert sink.batches == [[0]]
        after(Numbered(n=1))
    assert sink.batches == [[0], [1]]


async def test_a_sink_of_single_events_gets_them_one_by_one() -> None:
    """Batching is for sinks that take batches."""
    sink = One()
    async with SideEffects({"s": sink}) as fx:
        for n in range(3):
            after(Numbered(n=n))
        await fx.flush()
    assert sink.delivered == [0, 1, 2]
