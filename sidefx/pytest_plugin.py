"""pytest fixtures of sidefx, found by pytest itself once sidefx is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidefx.testing import Capture


@pytest.fixture
def sidefx_capture() -> Iterator[Capture]:
    """What `after()` schedules in this test; see `sidefx.testing.capture`."""
    from sidefx.testing import capture  # noqa: PLC0415 - tests that do not use it do not import it

    with capture() as captured:
        yield captured
