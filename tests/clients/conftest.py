"""What the tests of clients share: the log, kept where no framework's own configuration of logging reaches it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What sidefx warns of, and worse; Litestar, for one, takes the handlers off the root logger."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines(logging.WARNING)
    logger = logging.getLogger("sidefx")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
