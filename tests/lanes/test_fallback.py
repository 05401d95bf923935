"""Where an event goes when its sink has given up on it."""

from __future__ import annotations

import pytest

from sidefx import ConfigError, PermanentError, RetryOptions, SideEffects, SinkOptions
from tests.lanes.sinks import Batches, Numbered, One

pytestmark = pytest.mark.anyio


@pytest.mark.contract("L10")
@pytest.mark.parametrize("failure", [PermanentError("never"), RuntimeError("not today")])
async def test_the_fallback_gets_once_what_was_given_up(failure: Exception) -> None:
    """Rejected or expired, it goes to the fallback, once; what was delivered does not."""
    sink = One(None, *[failure] * 5)
    fallback = Batches()
    options = {
        "s": SinkOptions(fallback="f", retry=RetryOptions(attempts=5, initial=0.001, max=0.001)),
        "f": SinkOptions(events=()),
    }
    async with SideEffects({"s": sink, "f": fallback}, options) as fx:
        await fx.emit(Numbered(n=1))
        await fx.emit(Numbered(n=2))
        await fx.flush()
        stats = fx.stats().sinks
        assert len(fx.dead_letters) == 1
    assert fallback.batches == [[2]]
    assert stats["f"].accepted == stats["f"].delivered == 1
    assert stats["s"].rejected + stats["s"].expired == 1


@pytest.mark.contract("L10")
async def test_a_replayed_event_does_not_fall_back_again() -> None:
    """It did so when it was given up for the first time."""
    fallback = Batches()
    options = {"s": SinkOptions(fallback="f"), "f": SinkOptions(events=())}
    async with SideEffects({"s": One(*[PermanentError("never")] * 2), "f": fallback}, options) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
        assert await fx.replay() == 1
        await fx.flush()
        assert len(fx.dead_letters) == 1
        assert await fx.replay() == 1
        await fx.flush()
        assert fx.stats().sinks["s"].delivered == 1
    assert fallback.batches == [[1]]


def test_a_sink_cannot_have_the_name_of_the_callables() -> None:
    """Their numbers would be one."""
    with pytest.raises(ConfigError, match=r"sinks\.callables"):
        SideEffects({"callables": One()})


async def test_fallbacks_in_a_circle_are_refused() -> None:
    """An event could go round for ever."""
    options = {"a": SinkOptions(fallback="b"), "b": SinkOptions(fallback="a")}
    with pytest.raises(ConfigError, match="fallback"):
        SideEffects({"a": One(), "b": One()}, options)
