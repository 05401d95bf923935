"""SIGTERM and Ctrl-C to real servers in processes of their own, which tell sidefx of their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.asgi.probe import PATIENCE
from tests.asgi.processes import GUNICORN_WITH_UVICORN, LIFESPAN, Process, serving

APP = "tests.asgi.drained:app"
SIGNALS = {"SIGTERM": Process.terminate, "Ctrl-C": Process.press_ctrl_c}
LEFT = "3 effect(s) were not finished at shutdown and are lost: "

GRACEFUL = tuple(kind for kind in LIFESPAN if kind != "gunicorn")
"""Those that end in good order on Ctrl-C as well."""


def _lists_what_is_left(printed: str) -> None:
    listing = [line for line in printed.splitlines() if LEFT in line]
    assert len(listing) == 1, printed
    assert "callables: the one that hangs × 1" in listing[0]
    assert "sinks.sink: asgi_test.happened × 2" in listing[0]


@pytest.mark.contract("D01", "S05")
@pytest.mark.parametrize(
    ("signal", "kind"),
    [
        *(("SIGTERM", kind) for kind in LIFESPAN),
        *(("Ctrl-C", kind) for kind in GRACEFUL),
        *(pytest.param(each, *GUNICORN_WITH_UVICORN.values, marks=GUNICORN_WITH_UVICORN.marks) for each in SIGNALS),
    ],
)
def test_effects_and_what_they_schedule_are_waited_for(signal: str, kind: str, tmp_path: Path) -> None:
    """What runs at the signal, and all that it schedules, is done before the app's shutdown; then the server exits."""
    with serving(kind, APP, tmp_path) as process:
        assert process.get("/") == b"ok"
        process.tells("effect 2 runs")
        SIGNALS[signal](process)
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


@pytest.mark.contract("D02")
@pytest.mark.parametrize("kind", ["hypercorn-asyncio", "hypercorn-trio"])
def test_a_server_that_waits_for_less_than_the_drain_is_not_kept(kind: str, tmp_path: Path) -> None:
    """Hypercorn's `shutdown_timeout` cancels the lifespan: then nothing is waited for any more, and all is listed."""
    (tmp_path / "hypercorn.toml").write_text("shutdown_timeout = 0.5\n", encoding="utf-8")
    options = ("--config", "hypercorn.toml")
    with serving(kind, APP, tmp_path, *options, DRAIN_TIMEOUT=f"{2 * PATIENCE:g}") as process:
        assert process.get("/hang") == b"ok"
        process.tells("sink hangs")
        process.tells("hangs")
        process.terminate()
        printed = process.end()
    assert "LifespanTimeoutError" in printed
    _lists_what_is_left(printed)
