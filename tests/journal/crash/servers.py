"""Servers that are killed, and started again: they share a journal, and a ledger of what their sinks were given."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tests.asgi.processes import Process, serving
from tests.journal.crash.ledger import Ledger

APP = "tests.journal.crash.app:app"
ATTEMPTS = 3
"""After so many a poison event is given up."""


class Place:
    """A folder with a journal, what the sinks of all processes were given, and when which of them was killed."""

    def __init__(self, folder: Path, audit: str = "") -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.journal = folder / "journal"
        self.killed: dict[int, float] = {}
        """Processes, and when they were about to be, on the system's monotonic clock."""
        self.environment = {
            "LEDGER": str(folder / "ledger"),
            "JOURNAL": str(self.journal),
            "AUDIT": audit,
            "ATTEMPTS": f"{ATTEMPTS}",
        }

    def living(self, group: int | None = None) -> set[int]:
        """The processes, of one server or of all, that have loaded the app and were not killed."""
        self.killed |= {line.process: line.at for line in self.ledger.told("poisoned")}
        born = {line.process for line in self.ledger.told("born") if group is None or line.about == f"{group}"}
        return born - self.killed.keys()

    @property
    def segments(self) -> list[str]:
        """The journal's files of events."""
        return sorted(path.name for path in self.journal.glob("*.sqlite") if path.name != "dead.sqlite")

    def kill(self, process: int) -> None:
        """`kill -9` of one; not of a stranger who has its number by now, where its server has ended it itself."""
        group = next(int(line.about) for line in self.ledger.told("born") if line.process == process)
        self.killed[process] = time.monotonic()
        with suppress(ProcessLookupError):
            if os.getpgid(process) == group:
                os.kill(process, signal.SIGKILL)

    def kill_group(self, group: int) -> int:
        """The same of a server with all its workers; how many of them had loaded the app."""
        now = time.monotonic()
        os.killpg(group, signal.SIGKILL)
        dead = self.living(group)
        self.killed |= dict.fromkeys(dead, now)
        return len(dead)


class Server:
    """uvicorn with so many workers; another one in its stead each time that it was killed."""

    def __init__(self, place: Place, name: str, workers: int) -> None:
        self._place = place
        self._folder = place.folder / name
        self._folder.mkdir()
        self._options = ("--workers", f"{workers}", "--log-level", "warning", "--no-access-log")
        self._running = ExitStack()
        self.printed = ""
        """By those that were killed."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self) -> None:
        """Starts it anew; returns when it takes connections."""
        self.process: Process = self._running.enter_context(
            serving("uvicorn", APP, self._folder, *self._options, **self._place.environment)
        )

    @property
    def group(self) -> int:
        """What `living` and `kill_group` know it by."""
        return self.process.popen.pid

    def kill(self) -> int:
        """Kills all of it; how many workers there were."""
        dead = self._place.kill_group(self.group)
        self.printed += self.process.printed
        self._running.close()
        return dead
