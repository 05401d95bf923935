"""One event that stands for several, and events that nobody takes."""

from __future__ import annotations

import pytest

from sidefx import AuditEvent, SideEffects, after
from tests.orders import Ordered, Stocked

pytestmark = pytest.mark.anyio


async def test_an_event_without_a_sink_is_counted_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """It never raises."""
    async with SideEffects() as fx:
        for _ in range(3):
            after(Stocked())
        await fx.flush(5)
        assert fx.stats().unrouted == {"test.stocked": 3}
    assert caplog.text.count("no sink takes events of kind test.stocked") == 1


async def test_an_event_fans_out() -> None:
    """Each further event goes to the sinks that take it, as if it had been scheduled itself."""
    actions: list[str] = []
    skus: list[str] = []

    async def audit_sink(event: AuditEvent) -> None:
        actions.append(event.action)

    async def stock_sink(event: Stocked) -> None:
        skus.append(event.sku)

    async with SideEffects({"a": audit_sink, "s": stock_sink}) as fx:
        after(Ordered())
        await fx.flush(5)
        assert (actions, skus) == (["order"], ["b"])
        assert fx.stats().unrouted == {}


@pytest.mark.parametrize("mistake", ["endless", "broken"])
async def test_a_fan_out_that_goes_wrong_is_contained_and_bounded(
    mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it yielded before is delivered, the error is logged with its call site, and the runtime goes on."""
    skus: list[str] = []

    async def stock_sink(event: Stocked) -> None:
        skus.append(event.sku)

    async with SideEffects({"s": stock_sink}) as fx:
        after(Ordered(**{mistake: True}))
        after(Stocked(sku="other"))
        await fx.flush(5)
    assert "other" in skus
    assert "b" in skus
    assert len(skus) < 50
    assert "effects()" in caplog.text
    assert __file__ in caplog.text
