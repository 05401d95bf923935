"""The servers that the adapter is tested on, one at a time; a module's tests share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.asgi.servers import HTTP1, HTTP2, SERVERS, UVICORN, Server, staged


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every server that the contract names, with a `Stage`."""
    with staged(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=HTTP1)
def http1(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every server on HTTP/1.1, for what HTTP/2 cannot express."""
    with staged(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=HTTP2)
def http2(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every server on HTTP/2, for what HTTP/1.1 cannot express."""
    with staged(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=UVICORN)
def uvicorn(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Uvicorn with either of its protocol implementations."""
    with staged(request.param) as running:
        yield running
