"""At most so many calls in a period."""

from __future__ import annotations

import pytest

from sidefx import BreakerOptions, RateLimit, RetryOptions, SideEffects, SinkOptions, after
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


@pytest.mark.contract("L07")
@pytest.mark.parametrize("concurrency", [1, 5])
async def test_no_burst_follows_an_open_breaker(concurrency: int) -> None:
    """The rate limit holds over any period, also for those who waited while the breaker was open."""
    sink = One(*[RuntimeError("down")] * concurrency)
    options = SinkOptions(
        rate_limit=RateLimit(calls=1, period=1.0),
        breaker=BreakerOptions(failures=1, reset=30.0),
        retry=RetryOptions(attempts=99, initial=0.001, max=0.001),
        deadline=10_000.0,
        concurrency=concurrency,
    )
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        for n in range(10):
            after(Numbered(n=n))
        await fx.flush()
    assert sorted(sink.delivered) == list(range(10))
    gaps = [later - earlier for earlier, later in zip(sink.times, sink.times[1:], strict=False)]
    assert min(gaps) >= 1.0 - 1e-6
