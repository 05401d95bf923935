"""Who is on the suppression list of the sink `email` has no mail, and is reported."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest

from sidefx import PermanentError, TransientError

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
    async with serving(enable_SMTPUTF8=True) as room:
        yield room


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The list: one address."""
    (tmp_path / "suppressed.txt").write_text("# bounced\nBOB@Example.org  # 2026-05-04\n\n")
    return tmp_path / "suppressed.txt"


def replace(file: Path, content: bytes | None) -> None:
    """As an editor or a cron job does it; None takes the file away."""
    file.unlink() if content is None else file.write_bytes(content)


async def asynchronous(address: str) -> bool:
    """A rule that is a coroutine function."""
    await anyio.lowlevel.checkpoint()
    return address == "bob@example.org"


@pytest.mark.parametrize("rule", ["file", lambda address: address == "bob@example.org", asynchronous])
async def test_who_is_listed_has_no_mail_and_is_reported(room: Mailroom, file: Path, rule: Any) -> None:
    """The others have it; the server never hears of who is listed."""
    settings = {"suppression_file": file} if rule == "file" else {"suppressed": rule}
    async with sink_for(room, **settings) as sink:
        with pytest.raises(PermanentError) as refused:
            await sink.send(letter(*ALL))
        await sink.check()
    reason = "1 of 3 recipients (b***@example.org: suppressed) are to have no mail; the others have the mail"
    assert str(refused.value) == reason
    assert [mail.recipients for mail in room.mails] == [["ann@example.org", "cid@example.org"]]
    assert room.commands.count("RCPT") == 2


async def test_a_mail_to_nobody_is_not_begun(room: Mailroom, file: Path) -> None:
    """Where all are listed, the server is not even asked."""
    async with sink_for(room, suppression_file=file) as sink:
        with pytest.raises(PermanentError, match=r"1 of 1 recipients .*; nobody has the mail"):
            await sink.send(letter("bob@example.org"))
    assert room.connections == []


async def test_listed_and_refused_are_told_apart(room: Mailroom, file: Path) -> None:
    """One error names both, with their reasons."""
    room.refuse["cid@example.org"] = "550 5.1.1 unknown"
    async with sink_for(room, suppression_file=file) as sink:
        with pytest.raises(PermanentError) as refused:
            await sink.send(letter(*ALL))
    assert "(c***@example.org: 550 5.1.1) for good, and 1 of 3 recipients (b***@example.org: supp" in str(refused.value)


async def test_the_file_is_read_again_when_it_changes(room: Mailroom, file: Path) -> None:
    """A replay reaches who has been taken off the list, and nobody twice."""
    event = letter(*ALL)
    async with sink_for(room, suppression_file=file) as sink:
        with pytest.raises(PermanentError):
            await sink.send(event)
        replace(file, b"eve@example.org\n")
        await sink.send(event)
        replace(file, b"eve@example.org\nann@example.org\n")
        with pytest.raises(PermanentError, match=r"a\*\*\*@example.org: suppressed"):
            await sink.send(letter(*ALL))
    assert [mail.recipients for mail in room.mails] == [
        ["ann@example.org", "cid@example.org"],
        ["bob@example.org"],
        ["bob@example.org", "cid@example.org"],
    ]


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("@example.org", "ann@example.org"),
        ("@exämple.org", "ann@EXÄMPLE.org"),
        ("ann@exämple.org", "Ann@xn--exmple-cua.org"),
        ("änne@example.org", "Änne@example.org"),
        ("\ufeffann@example.org", "ann@example.org"),
    ],
)
async def test_how_addresses_are_compared(room: Mailroom, file: Path, line: str, address: str) -> None:
    """Whole domains, international ones in either form, without regard to case."""
    replace(file, line.encode())
    async with sink_for(room, suppression_file=file) as sink:
        with pytest.raises(PermanentError, match="suppressed"):
            await sink.send(letter(address))
        await sink.send(letter("ann@sub.example.org"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"suppression_file: cannot read .*suppressed.txt: No such file"),
        (b"ann@example.org\nbob\n", r"suppression_file: .*suppressed.txt, line 2 is neither"),
        (b"ann@example.org\ncid @example.org\n", r"line 2 is neither"),
        (b"*@example.org", r"line 1 is neither"),
        (b"mailto:ann@example.org", r"line 1 is neither"),
        (b"bounce,ann@example.org", r"line 1 is neither"),
        (b"<ann@example.org", r"line 1 is neither"),
        (b"\xe4nne@example.org", "is not UTF-8"),
    ],
)
async def test_a_list_that_cannot_be_read_stops_the_mail(
    room: Mailroom, file: Path, content: bytes | None, said: str
) -> None:
    """Nobody can tell who is to have none; at the start it keeps the runtime from starting."""
    async with sink_for(room, suppression_file=file) as sink:
        replace(file, content)
        for call in (sink.send(letter()), sink.check()):
            with pytest.raises(TransientError, match=said):
                await call
    assert room.mails == []
    with pytest.raises((OSError, ValueError), match="suppression_file"):
        async with sink_for(room, suppression_file=file):
            pass


def broken(address: str) -> bool:
    """A rule that fails, and says too much."""
    raise LookupError(address)


async def test_a_rule_that_fails_stops_the_mail(room: Mailroom) -> None:
    """It may answer later; its words are not repeated, for they hold an address."""
    async with sink_for(room, suppressed=broken) as sink:
        with pytest.raises(TransientError, match="suppressed: LookupError in broken") as failed:
            await sink.send(letter())
    assert "ann@" not in "".join(traceback.format_exception(failed.value))
    assert room.mails == []
