"""`capture()`: what a test sees of what was scheduled, and runs of it."""

from __future__ import annotations

from typing import Any

import pytest

from sidefx import NotRunningError, after
from sidefx.testing import capture
from tests.hostile import noop
from tests.orders import Ordered, Stocked

pytestmark = pytest.mark.anyio


async def test_capture_takes_what_would_have_been_released() -> None:
    """No runtime is needed; conditions are applied, nothing runs, and coroutines are closed."""
    ran: list[int] = []
    with capture() as captured:
        after(ran.append, 1, name="append")
        after(Stocked(sku="z"))
        after(noop())
        assert [effect.label for effect in captured] == ["append", "test.stocked", "noop"]
        assert [event.sku for event in captured.events(Stocked)] == ["z"]
        assert captured.calls(ran.append) == [(1,)]
        assert ran == []
    with pytest.raises(NotRunningError):
        after(noop)


async def test_captured_effects_run_when_asked_once_and_in_order() -> None:
    """Nested ones too; the first error reaches the test as it is."""
    ran: list[Any] = []

    def nested() -> None:
        ran.append("nested")
        after(ran.append, "deeper")

    async def sink(event: Stocked) -> None:
        ran.append(event.sku)

    def fail() -> None:
        raise LookupError

    with capture() as captured:
        after(nested)
        after(Stocked(sku="s"))
        await captured.run({"sink": sink})
        await captured.run({"sink": sink})
        assert ran == ["nested", "s", "deeper"]
        after(fail)
        with pytest.raises(LookupError):
            await captured.run()


async def test_a_captured_event_reaches_the_sinks_of_what_it_stands_for() -> None:
    """As it would under a runtime."""
    skus: list[str] = []

    async def sink(event: Stocked) -> None:
        skus.append(event.sku)

    with capture() as captured:
        after(Ordered())
        await captured.run({"sink": sink})
    assert skus == ["b"]


async def test_the_fixture_captures(sidefx_capture: Any) -> None:
    """`sidefx_capture` comes with the installation."""
    after(Stocked())
    assert len(sidefx_capture.events(Stocked)) == 1
