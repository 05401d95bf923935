"""Servers with several worker processes: each has a runtime of its own, and drains it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.asgi.probe import eventually
from tests.asgi.processes import Process, serving

WORKERS = 2
APP = "tests.asgi.drained:app"
KINDS = ("uvicorn", "hypercorn-asyncio", "hypercorn-trio", "granian", "gunicorn")


@contextmanager
def _occupied(kind: str, folder: Path) -> Iterator[tuple[Process, list[int]]]:
    """A server whose workers have an effect each that goes on, and their process ids.

    A worker that has a request is blocked until all have one, so that it takes no other; where the kernel gives
    connections to the workers by chance, some may wait behind it.
    """
    with (
        ExitStack() as connections,
        serving(kind, APP, folder, "--workers", f"{WORKERS}", WORKERS=f"{WORKERS}") as process,
    ):
        process.tells("started", times=WORKERS)
        while len(busy := _busy(process)) < WORKERS:
            connections.enter_context(process.ask("/worker"))
            patience = time.monotonic() + 0.5
            while len(_busy(process)) == len(busy) and time.monotonic() < patience:
                time.sleep(0.002)
        yield process, busy


def _busy(process: Process) -> list[int]:
    return [worker for worker, told in process.told_by_worker().items() if "busy" in told]


@pytest.mark.contract("D01")
@pytest.mark.parametrize("kind", KINDS)
def test_each_worker_drains_its_own(kind: str, tmp_path: Path) -> None:
    """A worker that has drained takes no other along: Hypercorn sends SIGTERM to the rest when the first has ended."""
    with _occupied(kind, tmp_path) as (process, (quick, slow)):
        process.terminate()
        process.tells("draining", times=WORKERS)
        process.allow(f"{quick}")
        eventually(lambda: "app stopped" in process.told_by_worker()[quick])
        os.kill(slow, signal.SIGTERM)  # what Hypercorn does sooner or later
        process.allow(f"{slow}")
        process.end()
        told = process.told_by_worker()

    for worker in (quick, slow):
        assert "effect of this worker done" in told[worker]
        assert told[worker][-1] == "app stopped"


@pytest.mark.contract("D01")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gunicorn"])
def test_each_worker_drains_its_own_on_ctrl_c(kind: str, tmp_path: Path) -> None:
    """A terminal sends SIGINT to each of them, and the server may send SIGTERM on top: still, all is done."""
    with _occupied(kind, tmp_path) as (process, workers):
        process.press_ctrl_c()
        process.tells("draining", times=WORKERS)
        for worker in workers:
            process.allow(f"{worker}")
        process.end()
        told = process.told_by_worker()

    for worker in workers:
        assert "effect of this worker done" in told[worker]
        assert told[worker][-1] == "app stopped"
