"""Events of a shop, for tests."""

from __future__ import annotations

from typing import Any

from sidefx import Event, audit


class Stocked(Event, kind="test.stocked"):
    """An event of the tests."""

    sku: str = "a"


class Ordered(Event, kind="test.ordered"):
    """One event that stands for others."""

    endless: bool = False
    broken: bool = False

    def effects(self) -> Any:
        yield audit("order", target="1")
        yield Stocked(sku="b")
        if self.endless:
            yield Ordered(endless=True)
        if self.broken:
            yield "no event"
