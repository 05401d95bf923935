"""A runtime for the tests that serve a request by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidefx import SideEffects
from tests.asgi.probe import Probe


@pytest.fixture
def probe() -> Probe:
    """What effects note."""
    return Probe()


@pytest.fixture
def fx(probe: Probe) -> Iterator[SideEffects]:
    """A runtime that runs, with the probe's sink."""
    effects = SideEffects({"sink": probe.sink}, name="of the test")
    effects.start_blocking()
    try:
        yield effects
    finally:
        effects.stop_blocking()
