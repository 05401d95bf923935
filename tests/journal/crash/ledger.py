"""What the sinks of all processes were given, in one file: each line is written at once, and survives its process."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from sidefx import Event


class Line(NamedTuple):
    """Something that a process has written down."""

    what: str
    """A sink's name, for what was delivered to it."""
    about: str
    """An event's id, for the same."""
    process: int
    at: float
    """On the system's monotonic clock, in seconds."""


class Ledger:
    """The file; processes append to it, and a test follows it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._read = 0
        self._lines: defaultdict[str, list[Line]] = defaultdict(list)

    def delivered(self, sink: str, event: Event) -> None:
        """An event has come to that sink."""
        self.note(sink, f"{event.id}")

    def note(self, what: str, about: str) -> None:
        """Writes one line; neither of the two has spaces."""
        os.write(self._file, f"{what} {about} {os.getpid()} {time.monotonic()!r}\n".encode())

    def told(self, what: str) -> list[Line]:
        """All lines of that name up to this moment, in order."""
        while piece := os.pread(self._file, 1 << 20, self._read):
            whole, newline, _ = piece.rpartition(b"\n")
            for text in whole.decode().splitlines():
                line = _line(text)
                self._lines[line.what].append(line)
            self._read += len(whole) + len(newline)
        return self._lines[what]


def _line(text: str) -> Line:
    what, about, process, at = text.split(" ")
    return Line(what, about, int(process), float(at))
