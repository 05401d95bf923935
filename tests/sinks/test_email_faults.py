"""The sink `email` when the server fails: at each stage of the conversation, in each way that there is."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme

from sidefx import PermanentError, TransientError

from .smtp_server import Mailroom, letter, server_side, serving, sink_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidefx import EmailEvent
    from sidefx_sinks.email import Email

pytestmark = pytest.mark.anyio

BEFORE_THE_MAIL = ["greeting", "EHLO", "STARTTLS"]
ABOUT_THE_MAIL = ["AUTH", "MAIL", "bob@example.org", "DATA command", "DATA"]
STAGES = [*BEFORE_THE_MAIL, *ABOUT_THE_MAIL]
ALL = ["ann@example.org", "bob@example.org", "cid@example.org"]


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
async def room(authority: trustme.CA) -> AsyncIterator[Mailroom]:
    """A server that has every stage: STARTTLS and AUTH as well."""
    async with serving(tls=server_side(authority), auth=True) as room:
        yield room


@pytest.fixture
async def sink(room: Mailroom, authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Email]:
    """The sink, open, with that server."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    login: dict[str, Any] = {"username": "shop", "password": "hunter2-secret"}
    async with sink_for(room, tls="starttls", ca_file=tmp_path / "ca.pem", **login) as sink:
        yield sink


def everybody_has_one(room: Mailroom) -> bool:
    """Nobody was forgotten, and nobody has two."""
    return sorted(one for mail in room.mails for one in mail.recipients) == ALL


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("answer", ["421 4.3.2 closing", "451 4.3.0 later", "hang up", "what?"])
async def test_a_fault_that_may_pass_is_transient(sink: Email, room: Mailroom, stage: str, answer: str) -> None:
    """At every stage; when it has passed, the next attempt reaches everybody, once."""
    event = letter(*ALL)
    room.refuse[stage] = answer
    with pytest.raises(TransientError) as failed:
        await sink.send(event)
    assert f"127.0.0.1:{room.port}" in str(failed.value)
    assert "@example" not in str(failed.value).replace("***@example", "")
    room.refuse.clear()
    await sink.send(event)
    assert everybody_has_one(room)


@pytest.mark.parametrize("stage", BEFORE_THE_MAIL)
async def test_5xx_before_the_mail_judges_no_mail(sink: Email, room: Mailroom, stage: str) -> None:
    """A server that does not want to talk today has refused nothing for good."""
    room.refuse[stage] = "554 5.3.2 under maintenance"
    with pytest.raises(TransientError, match="554 to"):
        await sink.send(letter(*ALL))
    room.refuse.clear()
    await sink.send(letter(*ALL))
    assert everybody_has_one(room)


@pytest.mark.parametrize("stage", ABOUT_THE_MAIL)
async def test_5xx_to_the_mail_is_permanent(sink: Email, room: Mailroom, stage: str) -> None:
    """Of the recipients, only the refused one is without the mail."""
    room.refuse[stage] = "554 5.7.1 no"
    with pytest.raises(PermanentError, match="554"):
        await sink.send(letter(*ALL))
    had = [one for mail in room.mails for one in mail.recipients]
    assert had == (["ann@example.org", "cid@example.org"] if stage == "bob@example.org" else [])


@pytest.mark.parametrize("stage", [*STAGES, "taken"])
async def test_a_server_that_falls_silent_is_left_by_a_cancelled_attempt(
    sink: Email, room: Mailroom, stage: str
) -> None:
    """As the lane's `timeout` does it; the connection is not used again, and the next mail goes out."""
    room.refuse[stage] = "silence"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sink.send, letter(*ALL))
        with anyio.fail_after(10):
            await room.silent.wait()
        tasks.cancel_scope.cancel()
    assert sink._connections._free == []
    room.refuse.clear()
    room.mails.clear()
    await sink.send(letter(*ALL))
    assert everybody_has_one(room)


async def test_an_answer_that_is_lost_is_the_one_doubt(sink: Email, room: Mailroom) -> None:
    """The server has the mail, and the connection breaks before it says so: it goes out again, recognisably."""
    event = letter(*ALL)
    room.refuse["taken"] = "hang up"
    with pytest.raises(TransientError, match="closed the connection"):
        await sink.send(event)
    room.refuse.clear()
    await sink.send(event)
    first, second = room.mails
    assert first.message["Message-ID"] == second.message["Message-ID"] == f"<{event.id}@example.org>"


@pytest.mark.parametrize("answer", ["hang up", "500 5.5.1 what?", "silence"])
async def test_a_server_that_does_not_say_goodbye(
    sink: Email, room: Mailroom, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QUIT comes after the mail, so nothing is lost and closing takes no longer than its bound."""
    monkeypatch.setattr("sidefx_sinks.email.connections._PARTING", 0.05)
    room.refuse["QUIT"] = answer
    await sink.send(letter(*ALL))
    with anyio.fail_after(5):
        await sink.__aexit__()
    assert everybody_has_one(room)


@pytest.mark.parametrize("answer", ["hang up", "250 OK", "500 5.5.1 what?", "silence"])
async def test_a_check_has_its_answer_before_goodbye(
    sink: Email, room: Mailroom, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server makes of QUIT does not fail it."""
    monkeypatch.setattr("sidefx_sinks.email.connections._PARTING", 0.05)
    room.refuse["QUIT"] = answer
    with anyio.fail_after(5):
        await sink.check()
    assert room.commands == ["NOOP", "QUIT"]


@pytest.mark.parametrize("fault", ["hang up", "421 4.7.0 too many errors", "451 4.3.0 later"])
async def test_a_recipient_that_breaks_the_conversation(sink: Email, room: Mailroom, fault: str) -> None:
    """Who was refused for good before it broke is not asked again, and is told of at the end."""
    event = letter(*ALL)
    room.refuse |= {"ann@example.org": "550 5.1.1 unknown", "bob@example.org": fault}
    with pytest.raises(TransientError):
        await sink.send(event)
    del room.refuse["bob@example.org"]
    with pytest.raises(PermanentError, match=r"1 of 3 recipients \(a\*\*\*@example.org: 550 5.1.1\) for good"):
        await sink.send(event)
    assert sorted(one for mail in room.mails for one in mail.recipients) == ALL[1:]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("552 too many", TransientError),
        ("552 5.5.3 too many", TransientError),
        ("552 5.2.2 full", PermanentError),
        ("552 5.3.4 too large", PermanentError),
    ],
)
async def test_too_many_recipients_come_later(sink: Email, room: Mailroom, answer: str, error: type[Exception]) -> None:
    """552 at RCPT is 452 (RFC 5321, 4.5.3.1.10), unless it is about the mailbox."""
    room.refuse["cid@example.org"] = answer
    with pytest.raises(error, match=r"c\*\*\*@example.org: 552"):
        await sink.send(letter(*ALL))
    assert [mail.recipients for mail in room.mails] == [ALL[:2]]


async def test_more_recipients_than_one_transaction_takes() -> None:
    """They go in several; when one of those fails, the others are not sent again."""
    async with serving() as room, sink_for(room, max_recipients=2) as sink:
        event = letter(*ALL)
        room.refuse["cid@example.org"] = "hang up"
        with pytest.raises(TransientError):
            await sink.send(event)
        room.refuse.clear()
        await sink.send(event)
        assert [mail.recipients for mail in room.mails] == [ALL[:2], ALL[2:]]
        assert len({mail.message["Message-ID"] for mail in room.mails}) == 1


async def test_tls_that_does_not_come(sink: Email, room: Mailroom) -> None:
    """The server says yes to STARTTLS and then speaks no TLS: nothing of the mail is said in the clear."""
    room.refuse["STARTTLS"] = "220 go ahead"
    with anyio.fail_after(10):
        with pytest.raises(TransientError):
            await sink.send(letter(*ALL))
    assert room.commands == []
    room.refuse.clear()
    await sink.send(letter(*ALL))
    assert everybody_has_one(room)


async def test_tls_at_a_port_without_it() -> None:
    """`tls = "tls"` where STARTTLS is meant: an error in one line, no mail."""
    async with serving() as room, sink_for(room, tls="tls") as sink:
        with anyio.fail_after(10):
            with pytest.raises(TransientError, match=r"cannot connect to 127\.0\.0\.1") as failed:
                await sink.send(letter(*ALL))
        assert room.commands == []
    assert "\n" not in str(failed.value)


FAULTS = ["421 4.3.2 closing", "451 4.3.0 later", "554 5.7.1 no", "hang up", "what?", "silence"]


async def test_whatever_happens_nobody_has_two_and_nobody_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults at any stage, in any order, with restarts in between; a replay then reaches who is left."""
    monkeypatch.setattr("sidefx_sinks.email.connections._PARTING", 0.05)
    seed = int(os.environ.get("SIDEFX_SEED", "0")) or random.randrange(1 << 32)
    print(f"SIDEFX_SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    luck = random.Random(seed)
    async with serving(command_call_limit=None) as room:
        for _ in range(40):
            recipients = [f"{name}@example.org" for name in "abcdef"[: luck.randrange(1, 7)]]
            event, ended = letter(*recipients), False
            room.mails.clear()
            stages = ["greeting", "EHLO", "MAIL", "DATA command", "DATA", "RSET", "QUIT", *recipients]
            settings = {"max_recipients": luck.randrange(1, 4), "state": tmp_path / "email.sqlite"}
            while not ended:
                async with sink_for(room, **settings) as sink:
                    while not ended:
                        room.refuse = {stage: luck.choice(FAULTS) for stage in luck.sample(stages, luck.randrange(3))}
                        ended = await _attempt(sink, room, event)
                        if luck.random() < 0.3:
                            room.refuse.clear()
                            break
            room.refuse.clear()
            async with sink_for(room, **settings) as sink:
                await sink.send(event)
            assert sorted(one for mail in room.mails for one in mail.recipients) == recipients


async def _attempt(sink: Email, room: Mailroom, event: EmailEvent) -> bool:
    """One attempt, as a lane makes it; whether it is to be the last."""
    room.silent = anyio.Event()
    ended = False

    async def attempt() -> None:
        nonlocal ended
        try:
            await sink.send(event)
            ended = True
        except TransientError:
            pass
        except PermanentError:
            ended = True
        finally:
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt)
        await room.silent.wait()
        tasks.cancel_scope.cancel()
    return ended
