"""SIGTERM, Ctrl-C and the end of the interpreter, where the server tells sidefx nothing of its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.asgi.processes import Process, serving

APP = "tests.asgi.drained:app"
LEFT = "effect(s) were not finished at shutdown and are lost: "

OPTIONS: dict[str, tuple[str, ...]] = {
    "uvicorn": ("--lifespan", "off"),
    "daphne": (),
    "granian-no-lifespan": (),
}
SIGNALS = {"SIGTERM": Process.terminate, "Ctrl-C": Process.press_ctrl_c}


@contextmanager
def _serving(kind: str, folder: Path, **environment: str) -> Iterator[Process]:
    with serving(kind, APP, folder, *OPTIONS[kind], **environment) as process:
        yield process


@pytest.mark.contract("A15", "D01", "S05")
@pytest.mark.parametrize(("signal", "requests"), [("SIGTERM", 1), ("SIGTERM", 2), ("Ctrl-C", 2)])
@pytest.mark.parametrize("kind", OPTIONS)
def test_effects_and_what_they_schedule_are_waited_for(kind: str, signal: str, requests: int, tmp_path: Path) -> None:
    """What runs at the signal, and all that it schedules, is done; then the server exits.

    The first request is kept for its effects, so that it is the server that waits; a second one frees both.
    """
    with _serving(kind, tmp_path, WORK="0.25") as process:
        for count in range(1, requests + 1):
            assert process.get("/") == b"ok"
            process.tells("effect 2 runs", times=count)
        SIGNALS[signal](process)
        process.allow("effects")
        printed = process.end()
        told = process.told

    for each in ("effect 2 done", "effect 1 done", "effect 0 done", "delivered nested 2", "delivered nested 1"):
        assert told.count(each) == requests
    assert LEFT not in printed
    assert printed.count("runs no ASGI lifespan") == 1


@pytest.mark.contract("A15", "D02", "D03")
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("kind", OPTIONS)
def test_what_is_left_at_the_deadline_is_listed(kind: str, signal: str, tmp_path: Path) -> None:
    """After `drain_timeout`, and no later, the server exits and what it leaves is listed."""
    drain_timeout = 1.5
    with _serving(kind, tmp_path, DRAIN_TIMEOUT=f"{drain_timeout}") as process:
        assert process.get("/hang") == b"ok"
        process.tells("sink hangs")
        process.tells("hangs")
        SIGNALS[signal](process)
        began = time.monotonic()
        printed = process.end()
        took = time.monotonic() - began
        told = process.told

    assert "delivered by the other" in told
    listing = [line for line in printed.splitlines() if LEFT in line]
    assert len(listing) == 1, printed
    assert "callables: the one that hangs × 1" in listing[0]
    assert "sinks.sink: asgi_test.happened × 2" in listing[0]
    assert took < 2 * drain_timeout


@pytest.mark.contract("A15", "D02")
@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_a_server_that_ends_by_itself_leaves_nothing_unseen(kind: str, tmp_path: Path) -> None:
    """One that has served enough requests cancels what runs, and lets nobody wait: what is lost is listed."""
    options = {"uvicorn": ("--lifespan", "off", "--limit-max-requests", "2"), "gunicorn": ("--asgi-lifespan", "off")}
    with serving(kind, APP, tmp_path, *options[kind]) as process:
        for count in (1, 2):
            assert process.get("/") == b"ok"
            process.tells("effect 2 runs", times=count)
        if kind == "gunicorn":
            process.terminate()
        printed = process.end()
    listing = [line for line in printed.splitlines() if LEFT in line]
    assert len(listing) == 1, printed
    assert "callables: _until_allowed × 2" in listing[0]


@pytest.mark.contract("A15", "D01")
def test_the_interpreter_exits_after_the_effects(tmp_path: Path) -> None:
    """A reactor that an app stops leaves its event loop as it stands: at exit it runs on until the effects are done."""
    with _serving("daphne", tmp_path) as process:
        assert process.get("/quit") == b"ok"
        process.tells("stopped the reactor")
        process.allow("effects")
        printed = process.end()
        told = process.told
    for each in ("effect 2 done", "effect 1 done", "effect 0 done", "delivered nested 2", "delivered nested 1"):
        assert each in told
    assert LEFT not in printed
