"""Which events go on at all."""

from __future__ import annotations

import pytest

from sidefx import SideEffects, SinkOptions, after
from tests.hostile import HOW, Made, accepts, assert_alive, misbehave
from tests.lanes.sinks import Numbered, One

pytestmark = pytest.mark.anyio


def is_even(event: Numbered) -> bool:
    """What the tests name in their options."""
    return event.n % 2 == 0


def breaks(event: Numbered) -> bool:
    """A predicate with a bug."""
    raise ZeroDivisionError(event.n)


@pytest.mark.parametrize("predicate", [is_even, "tests.lanes.test_filter:is_even"])
async def test_what_a_filter_refuses_is_dropped_and_counted(predicate: object) -> None:
    """Given in code or by name, it is asked for each event; what it refuses is accepted and dropped."""
    sink = One()
    async with SideEffects({"s": sink}, {"s": SinkOptions(filter=predicate)}) as fx:  # type: ignore[arg-type]  # both forms
        for n in range(4):
            await fx.emit(Numbered(n=n))
        await fx.flush()
        stats = fx.stats().sinks["s"]
    assert sink.delivered == [0, 2]
    assert (stats.accepted, stats.dropped) == (4, {"filtered": 2})


async def test_a_filter_that_raises_loses_nothing() -> None:
    """The event is rejected with the error and can be replayed; whoever emitted it notices nothing."""
    async with SideEffects({"s": One()}, {"s": SinkOptions(filter=breaks)}) as fx:
        await fx.emit(Numbered(n=1))
        [letter] = fx.dead_letters
        assert letter.reason == "ZeroDivisionError: 1"


async def test_a_sample_is_of_about_its_share_and_of_the_event() -> None:
    """A tenth is about a tenth, and an event that is offered twice has the same answer twice."""
    first, second = One(), One()
    tenth = SinkOptions(sample=0.1)
    async with SideEffects({"a": first, "b": second}, {"a": tenth, "b": tenth}) as fx:
        for n in range(2_000):
            await fx.emit(Numbered(n=n))
        await fx.flush()
        stats = fx.stats().sinks["a"]
    assert 100 < len(first.delivered) < 300
    assert first.delivered == second.delivered
    assert stats.dropped == {"sampled": 2_000 - len(first.delivered)}


@pytest.mark.parametrize(("share", "delivered"), [(0.0, 0), (1.0, 100)])
async def test_a_sample_of_all_or_nothing_is_exact(share: float, delivered: int) -> None:
    """The ends of the range are what they say."""
    sink = One()
    async with SideEffects({"s": sink}, {"s": SinkOptions(sample=share)}) as fx:
        for n in range(100):
            await fx.emit(Numbered(n=n))
        await fx.flush()
    assert len(sink.delivered) == delivered


@pytest.mark.contract("L01")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # real time: effects run in threads
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_predicate_ends_the_runtime(how: str) -> None:
    """The event is rejected and settles once."""

    def predicate(event: Made) -> None:
        misbehave(event.how)

    async with SideEffects({"s": accepts}, {"s": SinkOptions(filter=predicate)}) as fx:
        after(Made(how=how))
        await fx.flush(5)
        assert fx.stats().sinks["s"].rejected == 1
        await assert_alive(fx)
