"""Real servers that are stopped or killed, and started again: the next run takes what the journal holds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.asgi.processes import Process, serving

APP = "tests.asgi.durable:app"
DRAIN = 0.5
A_BIT = 5.0
"""Seconds that a server may take to end besides the drain."""

pytestmark = pytest.mark.parametrize("kind", ["uvicorn", "hypercorn-asyncio"])


@pytest.mark.contract("D02")
def test_what_hangs_at_sigterm_is_lost_from_memory_and_kept_in_the_journal(kind: str, tmp_path: Path) -> None:
    """The server ends at its deadline and says which is which; the next run delivers the journaled ones, each once."""
    with serving(kind, APP, tmp_path, HANG="1", DRAIN_TIMEOUT=f"{DRAIN}") as process:
        assert process.get("/") == b"begun"
        process.tells("journaled hangs")
        process.tells("memory hangs")
        signalled = time.monotonic()
        process.terminate()
        printed = process.end()
        assert time.monotonic() - signalled < DRAIN + A_BIT
        assert _delivered(process) == []
    assert "sinks.journaled: 2 event(s) stay in the journal" in printed
    lost = [line for line in printed.splitlines() if "were not finished at shutdown and are lost" in line]
    assert len(lost) == 1, printed
    assert lost[0].endswith(
        "2 effect(s) were not finished at shutdown and are lost: sinks.memory: asgi_test.happened × 2"
    )

    expected = [f"delivered durable {number}: GET / case- 200" for number in (1, 2)]
    assert _delivered_by_the_next_run(kind, tmp_path, expected) == expected


@pytest.mark.contract("J02", "J09")
def test_what_a_killed_stream_had_promised_is_delivered_by_the_next_run(kind: str, tmp_path: Path) -> None:
    """Killed once the client has the head of a 200: it counts as a success, and its request is known so far."""
    with serving(kind, APP, tmp_path) as process, process.ask("/stream") as wire:
        assert wire.head()[0] == 200
        os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
        assert _delivered(process) == []

    expected = [f"delivered {what}: GET /stream case-stream 200" for what in ("always", "success")]
    assert _delivered_by_the_next_run(kind, tmp_path, expected) == expected


@pytest.mark.contract("J09")
def test_a_success_that_became_an_error_is_delivered_in_no_run(kind: str, tmp_path: Path) -> None:
    """A 200 whose app raises later: its journaled success event is void for good, its error event is delivered once."""
    expected = [f"delivered {what}: GET /raise case-raise 200" for what in ("always", "error")]
    with serving(kind, APP, tmp_path) as process, process.ask("/raise") as wire:
        assert wire.until(b"begun") == b"begun"
        process.allow("response")
        for line in expected:
            process.tells(line)
        process.terminate()
        process.end()
        assert _delivered(process) == expected

    assert _delivered_by_the_next_run(kind, tmp_path, expected) == expected


def _delivered_by_the_next_run(kind: str, folder: Path, expected: list[str]) -> list[str]:
    """What all runs have delivered once another one has, and has stopped in good order with nothing on disk."""
    with serving(kind, APP, folder) as process:
        for line in expected:
            process.tells(line)
        process.terminate()
        printed = process.end()
        left = [path for path in (folder / "journal").glob("*.sqlite") if path.name != "dead.sqlite"]
        assert left == [], printed
        return _delivered(process)


def _delivered(process: Process) -> list[str]:
    """In all runs so far; in order of their names, as sinks are free to take them in another."""
    return sorted(line for line in process.told if line.startswith("delivered"))
