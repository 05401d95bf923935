"""A function or a template that hangs holds up neither the process nor, without end, its memory."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from sidefx import SideEffects
from sidefx_sinks.email.threads import DaemonThreads
from tests.waiting import until

from .smtp_server import letter, serving, sink_for

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, sys, threading
from pathlib import Path
from sidefx import email
from sidefx_sinks.email import Email

def hang(address):
    threading.Event().wait()

async def main():
    kind, folder = sys.argv[1:]
    settings = {"suppressed": hang} if kind == "suppressed" else {"templates": Path(folder)}
    letter = {"text": "a"} if kind == "suppressed" else {"template": "endless"}
    async with Email(sender="shop@example.org", tls="none", **settings) as sink:
        try:
            async with asyncio.timeout(0.1):
                await sink.send(email(to="ann@example.org", subject="a", **letter))
        except TimeoutError:
            print("left behind")

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


class Hung:
    """A function that returns when it is told to."""

    def __init__(self) -> None:
        self.called_in: list[threading.Thread] = []
        self.end = threading.Event()

    def __call__(self) -> None:
        self.called_in.append(threading.current_thread())
        self.end.wait(30)


@pytest.mark.parametrize("kind", ["suppressed", "template"])
def test_what_hangs_keeps_no_process_alive(kind: str, tmp_path: Path) -> None:
    """The lane's `timeout` leaves it behind, and the program can end."""
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (tmp_path / "endless.txt").write_text(endless)
    command = [sys.executable, "-c", PROGRAM, kind, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.returncode) == ("left behind\n", 0), ended.stderr


@pytest.mark.anyio
async def test_what_hangs_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do not pile up: who has given up has left one behind, and further calls wait for it."""
    monkeypatch.setattr("sidefx_sinks.email.threads._MOST", 2)
    threads, hung = DaemonThreads(), Hung()
    async with anyio.create_task_group() as callers:
        for _ in range(3):
            callers.start_soon(threads.run, hung)
        await until(lambda: len(hung.called_in) == 2)
        callers.cancel_scope.cancel()
    async with anyio.create_task_group() as callers:
        callers.start_soon(threads.run, hung)
        await anyio.wait_all_tasks_blocked()
        assert len(hung.called_in) == 2
        hung.end.set()
    assert [thread.daemon for thread in hung.called_in] == [True] * 3


@pytest.mark.anyio
async def test_what_it_returns_or_raises_comes_back() -> None:
    """As from a plain call."""
    threads = DaemonThreads()
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)


@pytest.mark.anyio
async def test_an_address_with_a_blank_is_rejected_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Such as the ideographic one, which no SMTP client can say: not tried again, and in no log."""
    caplog.set_level(logging.DEBUG)
    async with serving(enable_SMTPUTF8=True) as room, SideEffects({"email": sink_for(room)}) as fx:
        await fx.emit(letter("bob\u3000smith@example.com"))
        await fx.emit(letter("ann@example.org"))
        await fx.flush(10)
        stats = fx.stats().sinks["email"]
    assert (stats.delivered, stats.rejected, stats.retried) == (1, 1, 0)
    assert [mail.recipients for mail in room.mails] == [["ann@example.org"]]
    assert "smith" not in caplog.text
