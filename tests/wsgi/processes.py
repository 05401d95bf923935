"""WSGI servers in processes of their own, as a person starts them."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.asgi.probe import PATIENCE, eventually
from tests.asgi.wire import Reply, Wire
from tests.wsgi.record import Record

ROOT = Path(__file__).parents[2]

_GUNICORN = ("gunicorn", "--no-control-socket", "--bind")

COMMANDS: dict[str, Callable[[int, str], list[str]]] = {
    "gunicorn-sync": lambda port, app: [*_GUNICORN, f"127.0.0.1:{port}", app],
    "gunicorn-gthread": lambda port, app: [*_GUNICORN, f"127.0.0.1:{port}", "--threads", "4", app],
    "gunicorn-preload": lambda port, app: [*_GUNICORN, f"127.0.0.1:{port}", "--preload", "--workers", "2", app],
    "waitress": lambda port, app: ["waitress-serve", "--listen", f"127.0.0.1:{port}", app],
    "wsgiref": lambda port, app: ["python", "-m", "tests.wsgi.reference_server", f"{port}", app],
}

_numbers = itertools.count(1)


@dataclass
class Process:
    """A server that runs elsewhere."""

    kind: str
    port: int
    popen: subprocess.Popen[bytes]
    record: Record
    output: Path
    asked: dict[str, set[str]] = field(default_factory=dict)
    """What is to have been noted of each request in the end, no more and no less."""

    def wire(self) -> Wire:
        """A connection."""
        return Wire(self.port)

    def new_case(self) -> str:
        """The id of one more request."""
        return f"case-{next(_numbers)}"

    def get(self, path: str = "/ok", method: str = "GET", body: bytes = b"", **headers: str) -> tuple[Reply, str]:
        """A whole response on a connection of its own, and the request's id."""
        case = self.new_case()
        with self.wire() as wire:
            wire.ask(case, path, method, body, **headers)
            return wire.reply(), case

    def allow(self, what: str) -> None:
        """Lets everything go on that waits for this."""
        Path(f"{self.record.path}.{what}").touch()

    @property
    def printed(self) -> str:
        """What a person sees of it: stdout and stderr."""
        return self.output.read_text(encoding="utf-8")

    def prints(self, what: str) -> None:
        """Waits until it has printed that."""
        eventually(lambda: what in self.printed, f"{what!r} in {self.printed!r}")

    def terminate(self) -> None:
        """SIGTERM to the server's own process, as a container's stop sends it."""
        self.popen.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """SIGINT to the server's own process."""
        self.popen.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Waits until the process has ended by itself; its exit code."""
        try:
            return self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            msg = f"it does not end within {PATIENCE:g} s: {self.printed}"
            raise AssertionError(msg) from None


@contextmanager
def started(kind: str, app: str, folder: Path, *options: str, **environment: str) -> Iterator[Process]:
    """That server with that app, `module:name`; whatever is left of it at the end is killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, *arguments = COMMANDS[kind](port, app)
    record, output = Record(folder / "record"), folder / "printed"
    with output.open("wb") as printed:
        popen = subprocess.Popen(
            [str(Path(sys.executable).with_name(command)), *options, *arguments],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "RECORD": str(record.path),
                **environment,
            },
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
    try:
        yield Process(kind, port, popen, record, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # its own group: workers too
        popen.wait()


@contextmanager
def serving(kind: str, app: str, folder: Path, *options: str, **environment: str) -> Iterator[Process]:
    """The same, once it accepts connections."""
    with started(kind, app, folder, *options, **environment) as process:
        eventually(lambda: answers(process.port) or process.popen.poll() is not None, "the server")
        assert process.popen.poll() is None, process.printed
        yield process


def answers(port: int) -> bool:
    """Whether anybody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
