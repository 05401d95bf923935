"""At most so many calls in a period."""

from __future__ import annotations

import pytest

from sidefx import RateLimit, SideEffects, SinkOptions
from sidefx.lanes.rate import RateLimiter
from tests.lanes.sinks import Numbered, One

pytestmark = pytest.mark.anyio


async def test_no_window_has_more_calls_than_allowed() -> None:
    """In every stretch of one period there are at most `calls` of them, and none is dropped for it."""
    sink = One()
    async with SideEffects({"s": sink}, {"s": SinkOptions(rate_limit="5/s", concurrency=3)}) as fx:  # type: ignore[arg-type]  # as TOML says it
        for n in range(23):
            await fx.emit(Numbered(n=n))
        await fx.flush()
    assert len(sink.times) == 23
    assert all(later - earlier >= 0.999 for earlier, later in zip(sink.times, sink.times[5:], strict=False))
    assert sink.times[-1] - sink.times[0] == pytest.approx(4.0, abs=0.1)


async def test_retries_count_as_calls() -> None:
    """The limit is the receiver's, who does not care which attempt it was."""
    sink = One(*[RuntimeError("no")] * 3)
    async with SideEffects({"s": sink}, {"s": SinkOptions(rate_limit="1/min", deadline=1_000.0)}) as fx:  # type: ignore[arg-type]
        await fx.emit(Numbered(n=1))
        await fx.flush()
    assert all(later - earlier >= 60.0 for earlier, later in zip(sink.times, sink.times[1:], strict=False))


@pytest.mark.parametrize(
    ("text", "calls", "period"), [("50/s", 50, 1.0), ("5/min", 5, 60.0), (" 100 / h ", 100, 3_600.0)]
)
def test_a_rate_is_written_as_people_say_it(text: str, calls: int, period: float) -> None:
    """`calls/unit`, with the units s, min and h."""
    limit = RateLimit.model_validate(text)
    assert (limit.calls, limit.period) == (calls, period)
    assert RateLimit.model_validate(str(limit)) == limit


def test_reservations_queue_up() -> None:
    """Whoever comes to a full window is told when its turn is, one after another."""
    limiter = RateLimiter(RateLimit(calls=2, period=10.0))
    assert [limiter.reserve(0.0) for _ in range(5)] == [0.0, 0.0, 10.0, 10.0, 20.0]
