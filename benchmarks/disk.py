"""What this machine's disk takes to have a small write on it: measured, for figures mean nothing without it.

    python benchmarks/disk.py [--directory .] [--samples 500]

A disk that answers at once (tmpfs, a container without a real fsync) shows as 0.00 ms, and makes a journal look cheap.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

EVENTS = 3  # in a request, here as in the benchmarks of the journal
_JSON = '{"n":"' + "x" * 300 + '"}'  # about what an audit record has


@dataclass(slots=True)
class Disk:
    """Samples, in seconds."""

    full: list[float] = field(default_factory=list)
    """SQLite, write-ahead log, `synchronous=FULL`: a commit of three rows."""
    normal: list[float] = field(default_factory=list)
    """The same with `NORMAL`, which does not wait for the disk."""
    append: list[float] = field(default_factory=list)
    """4 KiB written into a file that has the room already, and `fdatasync`."""

    @property
    def fsync(self) -> float:
        """What waiting for the disk costs a commit: the difference of the medians, in seconds."""
        return statistics.median(self.full) - statistics.median(self.normal)

    def sample(self, directory: Path, samples: int) -> None:
        """Takes so many more of each."""
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            self.full += _commits(Path(folder, "full.sqlite"), "FULL", samples)
            self.normal += _commits(Path(folder, "normal.sqlite"), "NORMAL", samples)
            self.append += _appends(Path(folder, "append"), samples)

    def __str__(self) -> str:
        full, normal, append = (statistics.median(each) * 1_000 for each in (self.full, self.normal, self.append))
        return (
            f"disk: a commit of {EVENTS} rows takes {full:.3f} ms with FULL, {normal:.3f} ms with NORMAL: "
            f"one fsync is {self.fsync * 1_000:.3f} ms\n"
            f"      (written into a file that has the room, with fdatasync: {append:.3f} ms)"
        )


def _commits(path: Path, synchronous: str, samples: int) -> list[float]:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in (
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA journal_mode = WAL",
        f"PRAGMA synchronous = {synchronous}",
        "CREATE TABLE event (id INTEGER PRIMARY KEY, json TEXT)",
    ):
        connection.execute(statement)

    def commit() -> None:
        connection.execute("BEGIN")
        for _ in range(EVENTS):
            connection.execute("INSERT INTO event (json) VALUES (?)", (_JSON,))
        connection.execute("COMMIT")

    _timed(commit, samples)  # the log has its size now, and is written over from its start
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    seconds = _timed(commit, samples)
    connection.close()
    return seconds


def _appends(path: Path, samples: int) -> list[float]:
    block = os.urandom(4_096)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(samples):
            os.write(descriptor, block)
        os.fsync(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)

        def append() -> None:
            os.write(descriptor, block)
            os.fdatasync(descriptor)

        return _timed(append, samples)
    finally:
        os.close(descriptor)


def _timed(call: Callable[[], object], samples: int) -> list[float]:
    seconds = []
    for _ in range(samples):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path(), help="on the disk that is meant")
    parser.add_argument("--samples", type=int, default=500)
    options = parser.parse_args()
    disk = Disk()
    disk.sample(options.directory, options.samples)
    print(disk)


if __name__ == "__main__":
    main()
