"""A process that has everything imported, and forks one that is watched for each life that is to be lived."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.journal.crash.watch import Call, Point, follow, watched

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Life:
    """What became of a process."""

    folder: Path
    calls: tuple[Call, ...]
    """On its journal's folder, in order; where it was killed, the last one has not happened."""
    killed: bool
    said: str
    """`done`, or why not."""

    def __str__(self) -> str:
        what = f"killed before call {len(self.calls)}, {self.calls[-1]}" if self.killed else "not killed"
        return f"{what} [{self.folder}]"


class UnwatchableError(Exception):
    """This system does not let one process watch another's calls."""


class Zygote:
    """Has processes live what `tests.journal.crash.story` tells."""

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen([sys.executable, "-m", "tests.journal.crash.story"], stdin=theirs, cwd=ROOT)
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._popen.wait()

    def live(self, what: str, folder: Path, kill_at: Point | None = None) -> Life:
        """Has a process do that, and kills it at that point of its way through the folder's journal.

        Raises:
            UnwatchableError: this system does not let us.
        """
        with self._asked("watched", what, folder) as process:
            message, listeners, *_ = socket.recv_fds(process, 10_000, 1)
            if not listeners:
                raise UnwatchableError(message.decode())
            calls, killed = follow(listeners[0], int(message), folder / "journal", kill_at)
            return Life(folder, tuple(calls), killed, _said(process))

    def finish(self, what: str, *folders: Path) -> str:
        """Has a process do that, unwatched, in each of the folders; what it said at its end."""
        with self._asked("unwatched", what, *folders) as process:
            return _said(process)

    def _asked(self, *words: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._ours, ["\n".join(map(str, words)).encode()], [theirs.fileno()])
        return ours


def _said(process: socket.socket) -> str:
    return b"".join(iter(lambda: process.recv(10_000), b"")).decode()


def serve(live: Callable[[str, Sequence[str]], object]) -> None:
    """What the zygote does: forks for each life, until nobody wants one any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    asked = socket.socket(fileno=sys.stdin.fileno())
    while True:
        message, descriptors, *_ = socket.recv_fds(asked, 100_000, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as asker:
            if os.fork():
                continue
            is_watched, what, *folders = message.decode().split("\n")
            _live(asker, is_watched == "watched", lambda: live(what, folders))  # noqa: B023 - called at once


def _live(asker: socket.socket, is_watched: bool, live: Callable[[], object]) -> None:
    said = "done"
    try:
        if is_watched:
            listener = watched()
            socket.send_fds(asker, [f"{os.getpid()}".encode()], [listener])
            os.close(listener)
        live()
    except BaseException:  # noqa: BLE001 - told to whoever asked
        said = traceback.format_exc()
    asker.sendall(said.encode())
    os._exit(0)
