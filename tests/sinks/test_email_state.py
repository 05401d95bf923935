"""The sink `email` remembers, through a restart, who has got which mail."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import pytest

from sidefx import (
    JournalOptions,
    PermanentError,
    RetryOptions,
    RuntimeOptions,
    SideEffects,
    SinkOptions,
    TransientError,
)
from sidefx.testing import check_sink
from sidefx_sinks.email.state import State
from tests.waiting import until

from .smtp_server import Mailroom, letter, serving, sink_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

ALL = ["ann@example.org", "bob@example.org", "cid@example.org"]


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


@pytest.fixture
async def room() -> AsyncIterator[Mailroom]:
    """An SMTP server without TLS."""
    async with serving() as room:
        yield room


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the memory is to be."""
    return tmp_path / "private" / "email.sqlite"


async def test_it_keeps_the_contract(room: Mailroom, file: Path) -> None:
    """The suite that every sink passes, which sends each event twice: everybody has one mail."""
    await check_sink(lambda: sink_for(room, state=file), events := [letter(), letter()])
    assert len(room.mails) == len(events)


async def test_a_restart_sends_to_nobody_twice(room: Mailroom, file: Path) -> None:
    """Who has the mail has it, who is refused for good is not asked again, and the rest gets it."""
    event = letter(*ALL)
    room.refuse |= {"bob@example.org": "550 5.1.1 unknown", "cid@example.org": "450 4.2.1 greylisted"}
    async with sink_for(room, state=file) as sink:
        with pytest.raises(TransientError):
            await sink.send(event)
    room.refuse.clear()
    room.commands.clear()
    async with sink_for(room, state=file) as sink:
        with pytest.raises(PermanentError, match=r"1 of 3 recipients \(b\*\*\*@example.org: 550 5.1.1\) for good"):
            await sink.send(event)
    assert room.commands.count("RCPT") == 1
    assert [mail.recipients for mail in room.mails] == [["ann@example.org"], ["cid@example.org"]]


async def test_a_replay_after_a_restart_asks_for_the_refused_ones_alone(room: Mailroom, file: Path) -> None:
    """The dead letter holds the whole event; the mail goes to those who do not have it."""
    event = letter(*ALL)
    room.refuse["bob@example.org"] = "550 5.1.1 unknown"
    async with sink_for(room, state=file) as sink:
        with pytest.raises(PermanentError):
            await sink.send(event)
    room.refuse.clear()
    async with sink_for(room, state=file) as sink:
        await sink.send(event)
        await sink.send(event)
    assert [mail.recipients for mail in room.mails] == [["ann@example.org", "cid@example.org"], ["bob@example.org"]]


async def test_a_delivered_mail_that_comes_once_more_stays(room: Mailroom, file: Path) -> None:
    """As after a crash between the delivery and the journal's note of it; another event's mail goes out."""
    event = letter(*ALL)
    for _ in range(2):
        async with sink_for(room, state=file) as sink:
            await sink.send(event)
            await sink.send(event)
            assert len(sink._ledger) == 0
    async with sink_for(room, state=file) as sink:
        await sink.send(letter(*ALL))
    assert len(room.mails) == 2


async def test_a_fallback_with_the_same_file_completes_what_the_first_sink_began(room: Mailroom, file: Path) -> None:
    """Another server takes over, and sends to those who are without the mail."""
    event = letter(*ALL)
    async with serving() as other, sink_for(room, state=file) as first, sink_for(other, state=file) as second:
        room.refuse["bob@example.org"] = "450 4.2.1 later"
        with pytest.raises(TransientError):
            await first.send(event)
        await second.send(event)
        await first.send(event)
    assert [mail.recipients for mail in room.mails] == [["ann@example.org", "cid@example.org"]]
    assert [mail.recipients for mail in other.mails] == [["bob@example.org"]]


CRASH = """
import asyncio, os, sys
from sidefx import event_from_json
from sidefx_sinks.email import Email

async def main():
    sink = Email(sender="shop@example.org", host="127.0.0.1", port=int(sys.argv[1]), tls="none", state=sys.argv[2])
    async with sink:
        await sink.send(event_from_json("email", sys.argv[3]))
        os.kill(os.getpid(), 9)

from pathlib import Path
sys.argv[2] = Path(sys.argv[2])
asyncio.run(main())
"""


async def test_kill_9_after_a_delivery(room: Mailroom, file: Path) -> None:
    """The process dies before anybody else has noted the delivery; the next one does not repeat it."""
    event = letter(*ALL)
    command = [sys.executable, "-c", textwrap.dedent(CRASH), str(room.port), str(file), event.model_dump_json()]
    ended = await anyio.run_process(command, check=False, stderr=subprocess.PIPE)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    async with sink_for(room, state=file) as sink:
        await sink.send(event)
    assert [mail.recipients for mail in room.mails] == [ALL]


async def test_a_cancelled_attempt_notes_what_was_delivered(room: Mailroom, file: Path) -> None:
    """The second transaction hangs and is cancelled; the first is on disk."""
    event = letter(*ALL)
    room.refuse["cid@example.org"] = "silence"
    async with sink_for(room, state=file, max_recipients=2) as sink, anyio.create_task_group() as tasks:
        tasks.start_soon(sink.send, event)
        with anyio.fail_after(10):
            await room.silent.wait()
        tasks.cancel_scope.cancel()
    room.refuse.clear()
    async with sink_for(room, state=file) as sink:
        await sink.send(event)
    assert [mail.recipients for mail in room.mails] == [ALL[:2], ALL[2:]]


async def test_the_file_is_private(room: Mailroom, file: Path) -> None:
    """Nobody else may read it, and who does finds no address in it."""
    async with sink_for(room, state=file) as sink:
        await sink.send(letter(*ALL))
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    content = await anyio.Path(file).read_bytes()
    assert not any(word in content for word in (b"ann", b"bob", b"example"))


def mode(path: Path) -> int:
    """Who may do what with it."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_link_is_not_followed(room: Mailroom, tmp_path: Path) -> None:
    """A file that somebody else has put in the way is not written to."""
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"state: cannot use .*link"):
        async with sink_for(room, state=tmp_path / "link"):
            pass


async def test_a_file_that_is_none_is_found_at_the_start(room: Mailroom, tmp_path: Path) -> None:
    """The first mail is too late to learn of it."""
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(OSError, match=r"state: cannot use .*letter.txt: .*not a database"):
        async with sink_for(room, state=tmp_path / "letter.txt"):
            pass


async def test_while_the_file_cannot_be_read_the_mail_waits(
    room: Mailroom, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it went out already is not known."""
    async with sink_for(room, state=file) as sink:

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(State, "read", fail)
        with pytest.raises(TransientError, match=r"state: cannot read .*email.sqlite: disk I/O error"):
            await sink.send(letter())
    assert room.mails == []


async def test_a_delivery_that_cannot_be_noted_is_one_all_the_same(
    room: Mailroom, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, with the event and without an address: sending again would be worse."""
    event = letter(*ALL)
    async with sink_for(room, state=file) as sink:
        with closing(sqlite3.connect(file)) as other:
            other.execute("DROP TABLE recipient")
            other.execute("CREATE VIEW recipient AS SELECT x'00' AS event, x'00' AS recipient, '' AS answer, 0 AS at")
            other.commit()
        with caplog.at_level(logging.ERROR, "sidefx.email"):
            await sink.send(event)
    assert str(event.id) in caplog.text
    assert "ann@" not in caplog.text
    assert len(room.mails) == 1


def test_old_rows_go(file: Path) -> None:
    """What nobody will ask for again is not kept for ever."""
    event = letter(*ALL)
    state = State(file)
    state.write(event.id, dict.fromkeys(ALL, ""))
    state.close()
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE recipient SET at = ?", (int(time.time()) - 31 * 24 * 3600,))
        other.commit()
    again = State(file)
    again.open()
    assert again.read(event.id, tuple(ALL)) == {}
    again.close()


def test_two_processes_may_share_it(file: Path) -> None:
    """A segment that another process adopts brings its events with it."""
    event = letter(*ALL)
    first, second = State(file), State(file)
    first.write(event.id, {"ann@example.org": "", "bob@example.org": "550"})
    assert second.read(event.id, tuple(ALL)) == {"ann@example.org": "", "bob@example.org": "550"}
    second.forget_refusals(event.id)
    assert first.read(event.id, tuple(ALL)) == {"ann@example.org": ""}
    first.close()
    second.close()
    assert os.listdir(file.parent) == ["email.sqlite"]  # noqa: PTH208 - nothing else is left


async def test_a_journal_and_a_restart(
    room: Mailroom, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One recipient has the mail, one is to come, the program ends: the next run delivers to the other one alone.

    The refused one is the dead letter, and a replay of it reaches nobody else.
    """
    room.refuse |= {"bob@example.org": "550 5.1.1 unknown", "cid@example.org": "450 4.2.1 greylisted"}
    event = letter(*ALL)

    def runtime() -> SideEffects:
        return SideEffects(
            {"mail": sink_for(room, state=file)},
            {"mail": SinkOptions(delivery="journal", retry=RetryOptions(initial=300.0, max=300.0))},
            runtime=RuntimeOptions(drain_timeout=0.05),
            journal=JournalOptions(path=tmp_path / "journal"),
        )

    async with runtime() as fx:
        await fx.emit(event)
        await until(lambda: "will retry" in caplog.text)
    assert [mail.recipients for mail in room.mails] == [["ann@example.org"]]
    room.refuse.clear()
    async with runtime() as fx:
        await fx.flush(20)
        [dead] = fx.dead_letters.matching(sink="mail")
        assert "1 of 3 recipients (b***@example.org: 550 5.1.1) for good; the others have the mail" in dead.error
        assert [mail.recipients for mail in room.mails] == [["ann@example.org"], ["cid@example.org"]]
        await fx.replay()
        await fx.flush(20)
    assert [mail.recipients for mail in room.mails[2:]] == [["bob@example.org"]]
