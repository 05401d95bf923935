"""Lanes are tested on virtual time, on both backends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.virtual_time import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with a clock that jumps."""
    return virtual_backend(request.param)
