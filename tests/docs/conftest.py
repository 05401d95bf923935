"""The two sides of the migration page: a server without sidefx, and one with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.asgi.servers import Stage, serving, staged
from tests.docs.sides import KIND, Side


@pytest.fixture(autouse=True)
def _only_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """What servers say of each request is not what is looked at; Litestar has the whole process log that."""
    caplog.set_level(logging.WARNING)


@pytest.fixture(scope="module")
def there() -> Iterator[Side]:
    """Uvicorn with apps as they were before."""
    stage = Stage()
    with serving(KIND, stage) as server:
        server.stage = stage
        yield Side(server)


@pytest.fixture(scope="module")
def here() -> Iterator[Side]:
    """Uvicorn with the adapter around the same apps."""
    with staged(KIND) as server:
        yield Side(server)
