"""What the tests of the journal measured, for the summary at the end of the report."""

from __future__ import annotations

FIGURES: list[str] = []


def figure(line: str) -> None:
    """Has the line printed at the end."""
    FIGURES.append(line)
