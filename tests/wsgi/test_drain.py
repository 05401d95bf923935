"""SIGTERM and SIGINT to real servers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.asgi.probe import PATIENCE, eventually
from tests.wsgi.processes import COMMANDS, Process, serving

APP = "tests.wsgi.drained:app"
ENDS: dict[str, Callable[[Process], None]] = {"SIGTERM": Process.terminate, "SIGINT": Process.interrupt}


def tells(server: Process, process: int, what: str) -> None:
    """Waits until that process of it has told that."""
    eventually(lambda: (process, what) in [(line.process, line.what) for line in server.record.lines()], what)


def every_worker_answers(server: Process) -> None:
    """Waits for that: a worker of gunicorn that is told to quit as it begins does not hear of it, and is waited for."""
    workers = 2 if server.kind == "gunicorn-preload" else 1
    seen = set[bytes]()

    def answer() -> bool:
        reply, _ = server.get("/", Connection="close")
        seen.add(reply.body.split()[0])
        return len(seen) == workers

    eventually(answer, f"{workers} workers")


@pytest.mark.contract("D01", "S05")
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", COMMANDS)
def test_effects_and_what_they_schedule_are_done_before_the_process_ends(kind: str, how: str, tmp_path: Path) -> None:
    """What runs when the server is told to end, and all that it schedules, is done; then the process ends."""
    with serving(kind, APP, tmp_path) as server:
        every_worker_answers(server)
        # closed by the server: gunicorn's gthread worker hangs where it is told to quit just as its client closes
        _, case = server.get("/nested", Connection="close")
        worker = server.record.has(case, "effect 2 runs").process
        ENDS[how](server)
        tells(server, worker, "the process ends")
        assert "effect 2 done" not in server.record.of(case)
        server.allow("effects")
        server.end()
        ran = server.record.of(case)

    assert {f"effect {depth} done" for depth in range(3)} <= set(ran), server.printed
    assert {"delivered nested 2", "delivered nested 1"} <= set(ran)
    assert "sink closed" in server.record.of("")


@pytest.mark.contract("D01")
@pytest.mark.parametrize(("kind", "second"), [("gunicorn-sync", signal.SIGQUIT), ("waitress", signal.SIGTERM)])
def test_a_process_that_is_told_twice(kind: str, second: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches gunicorn's workers twice, by the terminal and by their master: the first has begun the drain."""
    with serving(kind, APP, tmp_path, TELL_SIGNALS="yes") as server:
        _, case = server.get("/nested")
        worker = server.record.has(case, "effect 2 runs").process
        os.kill(worker, signal.SIGINT)
        tells(server, worker, "the process ends")
        lines, sent = 0, 0.0

        def told() -> bool:
            nonlocal lines, sent
            if "told while it drains" in server.record.of(""):
                return True
            seen, now = len(server.record.lines()), time.monotonic()
            if seen > lines or now - sent > 1.0:  # it has taken the last one; or that was pending, and the two were one
                lines, sent = seen, now
                os.kill(worker, second)
            return False

        eventually(told, "told while it drains")
        server.allow("effects")
        server.record.has(case, "effect 0 done", "delivered nested 1", "delivered nested 2")
        assert "could not be drained" not in server.printed


@pytest.mark.contract("D01")
@pytest.mark.parametrize("kind", ["gunicorn-sync", "gunicorn-gthread", "waitress"])
def test_an_open_request_is_finished_first(kind: str, tmp_path: Path) -> None:
    """A request that is open at SIGTERM is answered, and its effects run."""
    with serving(kind, APP, tmp_path) as server, server.wire() as wire:
        wire.ask("open", "/slow")
        server.record.has("open", "request open")
        server.terminate()
        if kind != "waitress":  # which says nothing
            server.prints("Handling signal: term")
        server.allow("requests")
        server.end()
        ran = server.record.of("open")

    assert "delivered of the open request" in ran, server.printed


@pytest.mark.contract("D01", "D02", "D03")
@pytest.mark.parametrize("kind", COMMANDS)
def test_what_is_left_at_the_deadline_is_cancelled_and_listed(kind: str, tmp_path: Path) -> None:
    """After `drain_timeout` the process ends and lists what it leaves; a hung sink keeps no other from its work."""
    with serving(kind, APP, tmp_path, DRAIN_TIMEOUT="0.5") as server:
        every_worker_answers(server)
        _, case = server.get("/hang")
        server.record.has(case, "sink hangs", "hangs")
        server.terminate()
        began = time.monotonic()
        server.end()
        took = time.monotonic() - began
        ran, printed = server.record.of(case), server.printed

    assert "delivered event by the other" in ran
    assert "delivered event" not in ran
    assert took < PATIENCE - 1
    listing = [line for line in printed.splitlines() if "not finished at shutdown" in line]
    assert len(listing) == 1, printed
    assert "callables: the one that hangs × 1" in listing[0]
    assert "sinks.sink: wsgi_test.noted × 2" in listing[0]


@pytest.mark.contract("D01", "W04")
def test_a_worker_that_is_replaced_drains_first(tmp_path: Path) -> None:
    """Gunicorn replaces a worker after so many requests: what it has still to do is done before it goes."""
    with serving("gunicorn-sync", APP, tmp_path, "--max-requests", "1") as server:
        _, case = server.get("/nested")
        worker = server.record.has(case, "effect 2 runs").process
        server.prints(f"Worker exiting (pid: {worker})")
        assert "effect 2 done" not in server.record.of(case)
        server.allow("effects")
        server.record.has(case, "effect 0 done", "delivered nested 1", "delivered nested 2")
        next_one, _ = server.get("/")
        tells(server, worker, "sink closed")

    assert next_one.body.split()[0] != str(worker).encode()


_NEVER_CLOSES = """
from sidefx import SideEffects, after
from sidefx.wsgi import SideEffectsMiddleware

def app(environ, start_response):
    after(print, name="of a response that nobody closes")
    start_response("200 OK", [])
    return [b"ok"]

adapter = SideEffectsMiddleware(app, effects=SideEffects())
response = adapter({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
"""


@pytest.mark.contract("W02")
def test_a_response_that_is_still_open_as_the_interpreter_ends() -> None:
    """Nothing can run its effects any more: they are listed, in a line and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", _NEVER_CLOSES], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0
    assert done.stdout == ""
    assert "are lost: callables: of a response that nobody closes × 1" in done.stderr
    assert "Traceback" not in done.stderr
