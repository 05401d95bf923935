"""From a task queue: what sidefx is not."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio
import pytest

from sidefx import AuditEvent, JournalOptions, SideEffects, SinkOptions, after

pytestmark = pytest.mark.anyio

CRASH = """
import os, signal, sys
import anyio
from sidefx import AuditEvent, JournalOptions, SideEffects, SinkOptions, after, audit

async def hang(event: AuditEvent) -> None:
    await anyio.sleep_forever()

async def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

async def main() -> None:
    options = {"audit": SinkOptions(delivery="journal")}
    async with SideEffects({"audit": hang}, options, journal=JournalOptions(path=sys.argv[1])) as fx:
        async with fx.scope():
            after(audit("order.create"))
            after(die)
        await anyio.sleep_forever()

anyio.run(main)
"""
"""Schedules an event and a function, and is killed while both are under way."""


async def test_a_function_is_called_once() -> None:
    """A function is called once."""
    calls: list[str] = []

    async def fail() -> None:
        calls.append("called")
        raise LookupError

    async with SideEffects() as fx:
        after(fail)
        await fx.flush()
    assert calls == ["called"]
    assert fx.stats().callables.retried == 0


async def test_nothing_comes_back() -> None:
    """Nothing comes back."""
    async with SideEffects():
        assert after(lambda: "a result") is None  # type: ignore[func-returns-value]  # that is what is said


async def test_durability(tmp_path: Path) -> None:
    """A crash takes functions along, and no journaled event."""
    journal = JournalOptions(path=tmp_path / "journal")
    with anyio.fail_after(30):
        killed = await anyio.run_process([sys.executable, "-c", CRASH, str(journal.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    delivered: list[str] = []

    async def record(event: AuditEvent) -> None:
        delivered.append(event.action)

    async with SideEffects({"audit": record}, {"audit": SinkOptions(delivery="journal")}, journal=journal) as fx:
        await fx.flush(timeout=10)
    assert delivered == ["order.create"]
    assert fx.stats().callables.accepted == 0


async def test_no_delay() -> None:
    """There is no delay and no schedule."""
    async with SideEffects():
        with pytest.raises(TypeError, match="countdown"):
            after(print, countdown=60)  # type: ignore[call-arg]  # that is the mistake
