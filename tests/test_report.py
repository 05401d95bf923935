"""Observers and the app's log may break; what is reported still is."""

from __future__ import annotations

import logging

import pytest

from sidefx import Settled, SideEffects, after
from tests.hostile import HOW, ONCE, QUICK, Made, Mute, accepts, assert_alive, misbehave, noop

pytestmark = pytest.mark.anyio


@pytest.mark.contract("S08")
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_an_observer_ends_the_runtime(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged by the observer's name, never by its repr, and the others hear of everything."""

    class Nosy:
        def __repr__(self) -> str:
            raise RuntimeError

        def __call__(self, record: Settled) -> None:
            misbehave(how)

    heard: list[Settled] = []
    async with SideEffects({"s": accepts}, observers=[Nosy(), heard.append]) as fx:
        after(Made())
        after(noop)
        await fx.flush(5)
        await assert_alive(fx)
    assert len(heard) == 3
    assert "observer" in caplog.text


async def test_an_asynchronous_observer_is_refused() -> None:
    """It would never run: nobody awaits what an observer returns."""

    async def observer(record: Settled) -> None: ...

    with pytest.raises(TypeError, match="asynchronous"):
        SideEffects(observers=[observer])


async def misbehaves(event: Made) -> None:
    """A sink that raises what the event says."""
    misbehave(event.how)


@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_the_apps_log_ends_the_runtime(how: str) -> None:
    """A logging filter that raises costs a line, not a lane."""

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise Mute

    log, broken = logging.getLogger("sidefx"), Broken()
    log.addFilter(broken)
    try:
        async with SideEffects({"s": misbehaves}, {"s": QUICK.model_copy(update={"retry": ONCE.retry})}) as fx:
            for _ in range(3):
                after(Made(how=how))
            await fx.flush(5)
            stats = fx.stats().sinks["s"]
            assert stats.settled == stats.accepted == 3
            await assert_alive(fx)
    finally:
        log.removeFilter(broken)
