"""Servers in processes of their own, as a person starts them: what they do with signals, and what they print."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.asgi.probe import PATIENCE, eventually
from tests.asgi.wire import Wire

ROOT = Path(__file__).parents[2]

_GUNICORN = ("gunicorn", "--no-control-socket", "--bind")

_COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda port: ["uvicorn", "--port", f"{port}"],
    "hypercorn-asyncio": lambda port: ["hypercorn", "--bind", f"127.0.0.1:{port}"],
    "hypercorn-trio": lambda port: ["hypercorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "trio"],
    "granian": lambda port: ["granian", "--interface", "asgi", "--port", f"{port}"],
    "granian-no-lifespan": lambda port: ["granian", "--interface", "asginl", "--port", f"{port}"],
    "gunicorn": lambda port: [*_GUNICORN, f"127.0.0.1:{port}", "--worker-class", "asgi"],
    "gunicorn-uvicorn": lambda port: [
        *(*_GUNICORN, f"127.0.0.1:{port}"),
        *("--worker-class", "uvicorn.workers.UvicornWorker"),
    ],
    "daphne": lambda port: ["daphne", "--port", f"{port}"],
}

LIFESPAN = ("uvicorn", "hypercorn-asyncio", "hypercorn-trio", "granian", "gunicorn")
"""The servers that tell of their start and their end."""
GUNICORN_WITH_UVICORN = pytest.param(
    "gunicorn-uvicorn",
    marks=pytest.mark.skipif(find_spec("uvicorn.workers") is None, reason="uvicorn has given its worker away"),
)
"""The worker that uvicorn has for gunicorn, and that it calls deprecated."""


@dataclass
class Process:
    """A server that runs elsewhere, and what its app has told so far."""

    port: int
    popen: subprocess.Popen[bytes]
    log: Path
    errors: Path

    @property
    def told(self) -> list[str]:
        """What the app and its effects have written."""
        return [what for _, what in self._lines()]

    def told_by_worker(self) -> dict[int, list[str]]:
        """The same for each of its processes that has told anything."""
        told: dict[int, list[str]] = {}
        for pid, what in self._lines():
            told.setdefault(pid, []).append(what)
        return told

    def _lines(self) -> list[tuple[int, str]]:
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        lines = (line.partition(" ") for line in text.splitlines())
        return [(int(pid), what) for pid, _, what in lines]

    def tells(self, what: str, times: int = 1) -> None:
        """Waits until it has been told, so many times."""
        eventually(lambda: self.told.count(what) >= times or self.popen.poll() is not None, what)
        assert self.told.count(what) >= times, self.printed

    def allow(self, what: str) -> None:
        """Lets everything go on that waits for this."""
        Path(f"{self.log}.{what}").touch()

    def ask(self, path: str) -> Wire:
        """Sends a request, and leaves the reply to the test."""
        wire = Wire(self.port)
        wire.ask(f"case-{path[1:]}", path)
        return wire

    def get(self, path: str) -> bytes:
        """The body of a whole response."""
        with self.ask(path) as wire:
            return wire.reply().body

    def terminate(self) -> None:
        """SIGTERM to the server's own process, as a container's or a cluster's stop sends it."""
        self.popen.send_signal(signal.SIGTERM)

    def press_ctrl_c(self) -> None:
        """SIGINT to all of its processes, as a terminal sends it."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def accepts_nobody(self) -> None:
        """Waits until no connection can be made any more."""
        eventually(lambda: not _answers(self.port), "the end of the listening socket")

    @property
    def printed(self) -> str:
        """What a person sees of it: stdout and stderr."""
        return self.errors.read_text(encoding="utf-8")

    def end(self) -> str:
        """Waits until the process has ended by itself; what it has printed."""
        self.popen.wait(PATIENCE)
        return self.printed


@contextmanager
def started(
    kind: str, app: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """That server with that app, `module:name`; whatever is left of it at the end is killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, *arguments = _COMMANDS[kind](port)
    log, errors = folder / "told", folder / "printed"
    with errors.open("wb") as output:
        popen = subprocess.Popen(
            [str(Path(sys.executable).with_name(command)), app, *arguments, *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TOLD": str(log), **(environment or {})},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Process(port, popen, log, errors)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # its own group: workers too
        popen.wait()


@contextmanager
def serving(kind: str, app: str, folder: Path, *options: str, **environment: str) -> Iterator[Process]:
    """The same, once it accepts connections."""
    with started(kind, app, folder, *options, environment=environment) as process:
        eventually(lambda: _answers(process.port) or process.popen.poll() is not None, "the server")
        assert process.popen.poll() is None, process.printed
        yield process


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
