"""SIGTERM to a real server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.asgi.probe import PATIENCE, eventually
from tests.asgi.wire import Wire

ROOT = Path(__file__).parents[2]
APP = "tests.asgi.drained:app"

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "uvicorn": lambda port: ["uvicorn", APP, "--port", port],
    "hypercorn-asyncio": lambda port: ["hypercorn", APP, "--bind", f"127.0.0.1:{port}"],
    "hypercorn-trio": lambda port: ["hypercorn", APP, "--bind", f"127.0.0.1:{port}", "--worker-class", "trio"],
    "granian": lambda port: ["granian", APP, "--interface", "asgi", "--port", port],
}


@dataclass
class Process:
    """A server that runs elsewhere, and what its app has told so far."""

    port: int
    popen: subprocess.Popen[bytes]
    log: Path
    errors: Path

    def told(self) -> list[str]:
        """What the app and its effects have written."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def tells(self, what: str) -> None:
        """Waits until it has."""
        eventually(lambda: what in self.told() or self.popen.poll() is not None, what)
        assert what in self.told(), self.errors.read_text()

    def ask(self, path: str) -> Wire:
        """Sends a request, and leaves the reply to the test."""
        wire = Wire(self.port)
        wire.ask(f"case-{path[1:]}", path)
        return wire

    def end(self) -> str:
        """Waits until the process has ended by itself; what it wrote to stderr."""
        self.popen.wait(PATIENCE)
        return self.errors.read_text(encoding="utf-8")


@contextmanager
def process(kind: str, folder: Path, *, drain_timeout: float = 20) -> Iterator[Process]:
    """That server with the app of `drained.py`; killed at the end, if it still runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log, errors = folder / "told", folder / "stderr"
    environment = {
        **os.environ,
        "DRAINED_LOG": str(log),
        "DRAINED_TIMEOUT": str(drain_timeout),
        "PYTHONPATH": str(ROOT),
    }
    command = [str(Path(sys.executable).with_name(COMMANDS[kind](str(port))[0])), *COMMANDS[kind](str(port))[1:]]
    with errors.open("wb") as output:
        popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        eventually(lambda: _answers(port) or popen.poll() is not None, "the server")
        assert popen.poll() is None, errors.read_text()
        yield Process(port, popen, log, errors)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.contract("D01", "S05")
@pytest.mark.parametrize("kind", COMMANDS)
def test_sigterm_waits_for_effects_and_what_they_schedule(kind: str, tmp_path: Path) -> None:
    """What runs at SIGTERM, and all that it schedules, is done before the app's shutdown; then the server exits."""
    with process(kind, tmp_path) as server:
        with server.ask("/") as wire:
            assert wire.reply().body == b"ok"
        server.tells("effect 2 runs")
        server.popen.send_signal(signal.SIGTERM)
        Path(f"{server.log}.open").touch()
        server.end()
        told = server.told()

    assert [line for line in told if line.startswith("effect")] == [
        *("effect 2 runs", "effect 2 done"),
        *("effect 1 runs", "effect 1 done"),
        *("effect 0 runs", "effect 0 done"),
    ]
    assert {"delivered nested 2", "delivered nested 1"} <= set(told)
    assert told[-1] == "app stopped"


@pytest.mark.contract("D01")
def test_sigterm_lets_requests_finish_first(tmp_path: Path) -> None:
    """A request that is open at SIGTERM is answered, and its effects run."""
    with process("uvicorn", tmp_path) as server, server.ask("/slow") as wire:
        server.tells("request open")
        server.popen.send_signal(signal.SIGTERM)
        eventually(lambda: not _answers(server.port))  # it accepts nobody any more
        Path(f"{server.log}.stop").touch()
        assert wire.reply().body == b"ok"
        server.end()
        told = server.told()
    assert told == ["request open", "delivered of the last request", "app stopped"]


@pytest.mark.contract("D01", "D02", "D03")
@pytest.mark.parametrize("kind", COMMANDS)
def test_what_is_left_at_the_deadline_is_cancelled_and_listed(kind: str, tmp_path: Path) -> None:
    """After `drain_timeout` the server exits and lists what it leaves; a hung sink keeps no other from its work."""
    with process(kind, tmp_path, drain_timeout=0.5) as server:
        with server.ask("/hang") as wire:
            assert wire.reply().body == b"ok"
        server.tells("sink hangs")
        server.tells("hangs")
        server.popen.send_signal(signal.SIGTERM)
        began = time.monotonic()
        errors = server.end()
        took = time.monotonic() - began
        told = server.told()

    assert told[-1] == "app stopped"
    assert "delivered by the other" in told
    assert "delivered event" not in told
    assert took < PATIENCE - 1
    listing = [line for line in errors.splitlines() if "not finished at shutdown" in line]
    assert len(listing) == 1, errors
    assert "callables: the one that hangs × 1" in listing[0]
    assert "sinks.sink: asgi_test.happened × 2" in listing[0]
