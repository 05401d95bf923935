"""SIGTERM and Ctrl-C to real servers in processes of their own, which tell sidefx of their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.asgi.probe import PATIENCE
from tests.asgi.processes import LIFESPAN, Process, serving

APP = "tests.asgi.drained:app"
LEFT = "3 effect(s) were not finished at shutdown and are lost: "

GRACEFUL = tuple(kind for kind in LIFESPAN if kind != "gunicorn")
"""Those that end in good order on Ctrl-C as well."""


def _end(process: Process, signal: str) -> None:
    if signal == "SIGTERM":
        process.terminate()
    else:
        process.press_ctrl_c()


def _lists_what_is_left(printed: str) -> None:
    listing = [line for line in printed.splitlines() if LEFT in line]
    assert len(listing) == 1, printed
    assert "callables: the one that hangs × 1" in listing[0]
    assert "sinks.sink: asgi_test.happened × 2" in listing[0]


@pytest.mark.contract("D01", "S05")
@pytest.mark.parametrize(
    ("kind", "signal"), [*((kind, "SIGTERM") for kind in LIFESPAN), *((kind, "Ctrl-C") for kind in GRACEFUL)]
)
def test_effects_and_what_they_schedule_are_waited_for(kind: str, signal: str, tmp_path: Path) -> None:
    """What runs at the signal, and all that it schedules, is done before the app's shutdown; then the server exits."""
    with serving(kind, APP, tmp_path) as process:
        assert process.get("/") == b"ok"
        process.tells("effect 2 runs")
        _end(process, signal)
        process.tells("shutting down")
        process.allow("effects")
        process.end()
        told = process.told

    assert [line for line in told if line.startswith("effect")] == [
        *("effect 2 runs", "effect 2 done"),
        *("effect 1 runs", "effect 1 done"),
        *("effect 0 runs", "effect 0 done"),
    ]
    assert {"delivered nested 2", "delivered nested 1"} <= set(told)
    assert told[-1] == "app stopped"


@pytest.mark.contract("D01")
@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, ("--graceful-timeout", "15") if kind.startswith("hypercorn") else ()) for kind in LIFESPAN],
)
def test_requests_finish_first(kind: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """A request that is open at SIGTERM is answered, and its effects run before the app's shutdown."""
    with serving(kind, APP, tmp_path, *options) as process, process.ask("/slow") as wire:
        process.tells("request open")
        process.terminate()
        process.accepts_nobody()
        process.allow("request")
        assert wire.reply().body == b"ok"
        process.end()
        told = process.told
    assert "delivered of the open request" in told
    assert told[-1] == "app stopped"


@pytest.mark.contract("D01", "S02")
@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("uvicorn", "--timeout-graceful-shutdown"),
        ("hypercorn-asyncio", "--graceful-timeout"),
        ("hypercorn-trio", "--graceful-timeout"),
    ],
)
def test_a_request_that_the_server_cuts_off_has_its_effects(kind: str, limit: str, tmp_path: Path) -> None:
    """A server cancels what is still open after a while, and tells of its shutdown before that has unwound."""
    with serving(kind, APP, tmp_path, limit, "0") as process, process.ask("/stuck"):
        process.tells("request open")
        process.terminate()
        process.end()
        told = process.told
    assert "delivered of the open request" in told
    assert told[-1] == "app stopped"


@pytest.mark.contract("D01", "D02", "D03")
@pytest.mark.parametrize("kind", LIFESPAN)
def test_what_is_left_at_the_deadline_is_cancelled_and_listed(kind: str, tmp_path: Path) -> None:
    """After `drain_timeout` the server exits and lists what it leaves; a hung sink keeps no other from its work."""
    with serving(kind, APP, tmp_path, DRAIN_TIMEOUT="0.5") as process:
        assert process.get("/hang") == b"ok"
        process.tells("sink hangs")
        process.tells("hangs")
        process.terminate()
        printed = process.end()
        told = process.told

    assert told[-1] == "app stopped"
    assert "delivered by the other" in told
    assert "delivered event" not in told
    _lists_what_is_left(printed)


@pytest.mark.contract("D01", "D02")
@pytest.mark.parametrize("kind", GRACEFUL)
def test_a_second_ctrl_c_cuts_the_drain_short(kind: str, tmp_path: Path) -> None:
    """Who does not want to wait for `drain_timeout` need not: what is left is listed, and the app shuts down."""
    with serving(kind, APP, tmp_path, DRAIN_TIMEOUT=f"{2 * PATIENCE:g}") as process:
        assert process.get("/hang") == b"ok"
        process.tells("sink hangs")
        process.tells("hangs")
        process.press_ctrl_c()
        process.tells("draining")
        process.press_ctrl_c()
        printed = process.end()
        told = process.told

    assert told[-1] == "app stopped"
    assert "interrupted" in printed
    _lists_what_is_left(printed)


@pytest.mark.contract("D02")
def test_gunicorn_ends_at_once_on_ctrl_c_and_still_lists_what_is_left(tmp_path: Path) -> None:
    """It tells of no shutdown then, and cancels everything: nothing is waited for, and nothing is lost unseen."""
    with serving("gunicorn", APP, tmp_path, DRAIN_TIMEOUT=f"{2 * PATIENCE:g}") as process:
        assert process.get("/hang") == b"ok"
        process.tells("sink hangs")
        process.tells("hangs")
        process.press_ctrl_c()
        printed = process.end()
        told = process.told
    assert "shutting down" not in told
    _lists_what_is_left(printed)
