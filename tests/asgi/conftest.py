"""The servers that the adapter is tested on, one at a time; a module's tests share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.asgi.servers import SERVERS, UVICORN, Server, staged


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every server that the contract names, with a `Stage`."""
    with staged(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=UVICORN)
def uvicorn(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Uvicorn with either of its protocol implementations."""
    with staged(request.param) as running:
        yield running
