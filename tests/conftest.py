"""What every test shares: the two event-loop backends and the real services."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from sidefx import tracing
from tests.traces import Traces


def pytest_configure() -> None:
    """What a shell starts in its background is deaf to SIGINT, and so is all that it starts: the servers under test."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every asynchronous test runs on both backends."""
    return request.param


def _service(variable: str, default: str) -> str:
    """The service's URL where something answers there; else the test skips, or fails with `CI=true`."""
    url = os.environ.get(variable, default)
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 0), timeout=2).close()
    except OSError as error:
        missing = f"nothing answers at {parts.hostname}:{parts.port} ({error}); start it or set {variable}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return url


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """A PostgreSQL database, as an SQLAlchemy URL."""
    return _service("SIDEFX_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")


@pytest.fixture(scope="session")
def mariadb_url() -> str:
    """A MariaDB database, as an SQLAlchemy URL."""
    return _service("SIDEFX_TEST_MARIADB_URL", "mysql+pymysql://root@127.0.0.1:3306/test")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis server."""
    return _service("SIDEFX_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


@pytest.fixture(scope="module")
def _opentelemetry() -> Iterator[None]:
    """OpenTelemetry may be imported in this module's tests, and is forgotten after them: most apps do not have it."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "opentelemetry":
            del sys.modules[name]


@pytest.fixture
def traces(_opentelemetry: None, monkeypatch: pytest.MonkeyPatch) -> Traces:
    """An app that has imported OpenTelemetry and set its tracer provider."""
    traces = Traces()
    monkeypatch.setattr(traces.api, "_TRACER_PROVIDER", traces.provider)
    monkeypatch.setattr(tracing, "_told", set())
    return traces
