"""What the power-cut tests need of SQLite."""

from __future__ import annotations

import os

import pytest

from tests.journal.power.native import library


@pytest.fixture(autouse=True)
def _open_sqlite() -> None:
    """A VFS can be registered with the SQLite of this Python; else the tests skip, or fail with `CI=true`."""
    try:
        library()
    except OSError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
