"""The figures of the journal's tests, at the end of the report."""

from __future__ import annotations

import pytest

from tests.journal.figures import FIGURES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints them, where there are any."""
    if FIGURES:
        terminalreporter.section("the journal, measured")
        for line in FIGURES:
            terminalreporter.write_line(line)
