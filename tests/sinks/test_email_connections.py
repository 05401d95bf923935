"""How the sink `email` keeps its connections: one mail at a time on each, renewed when they are dead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from sidefx import PermanentError, TransientError
from tests.waiting import until

from .smtp_server import Mailroom, letter, serving, sink_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


@pytest.fixture
async def room() -> AsyncIterator[Mailroom]:
    """An SMTP server without TLS."""
    async with serving() as room:
        yield room


class Gate:
    """Holds the server's answer to a mail until it is opened."""

    def __init__(self, mails: int) -> None:
        self._missing = mails
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def __call__(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self.reached.set()
        await self.opened.wait()


async def test_one_connection_serves_one_mail_after_another(room: Mailroom) -> None:
    """It is opened once, and closed with QUIT when the sink is."""
    async with sink_for(room) as sink:
        for _ in range(3):
            await sink.send(letter())
        assert "QUIT" not in room.commands
    assert [mail.connection for mail in room.mails] == [0, 0, 0]
    assert room.commands[-1] == "QUIT"


async def test_two_mails_at_once_have_two_connections(room: Mailroom) -> None:
    """And both connections are kept for those that follow."""
    room.before_taking = gate = Gate(mails=2)
    async with sink_for(room) as sink:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(sink.send, letter())
            with anyio.fail_after(10):
                await gate.reached.wait()
            gate.opened.set()
        assert sorted(mail.connection for mail in room.mails) == [0, 1]
        for _ in range(2):
            await sink.send(letter())
    assert len(room.connections) == 2


@pytest.mark.parametrize("idle", [0.0, 3600.0])
async def test_an_unused_connection_is_trusted_for_so_long(room: Mailroom, idle: float) -> None:
    """After `idle` seconds a new one takes its place, and the old one is closed."""
    async with sink_for(room, idle=idle) as sink:
        await sink.send(letter())
        await sink.send(letter())
        assert [mail.connection for mail in room.mails] == ([0, 1] if idle == 0 else [0, 0])
        assert len(sink._connections._free) == 1


async def test_a_connection_that_the_server_dropped_is_renewed(room: Mailroom) -> None:
    """One that is seen to be closed is not used again."""
    async with sink_for(room) as sink:
        await sink.send(letter())
        [(_, client)] = sink._connections._free
        lost = asyncio.Event()
        protocol = client.protocol
        assert protocol is not None
        seen = protocol.connection_lost

        def connection_lost(exc: Exception | None) -> None:
            seen(exc)
            lost.set()

        protocol.connection_lost = connection_lost
        room.connections[0].hang_up()
        await asyncio.wait_for(lost.wait(), 10)
        await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [0, 1]


@pytest.mark.parametrize("farewell", ["hang up", "421 4.4.2 idle for too long"])
async def test_a_connection_that_turns_out_dead_is_renewed_once(room: Mailroom, farewell: str) -> None:
    """At the first command of a mail, before anything of it was said: the lane sees no failure."""
    async with sink_for(room) as sink:
        await sink.send(letter())
        room.refuse["MAIL on 0"] = farewell
        await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [0, 1]


async def test_a_server_that_always_hangs_up_is_a_transient_failure(room: Mailroom) -> None:
    """A new connection is not renewed again: that would be a retry, which is the lane's."""
    room.refuse["MAIL"] = "hang up"
    async with sink_for(room) as sink:
        with pytest.raises(TransientError, match="closed the connection"):
            await sink.send(letter())
    assert len(room.connections) == 1


@pytest.mark.parametrize("command", ["ann@example.org", "DATA"])
async def test_a_server_that_hangs_up_in_the_middle(room: Mailroom, command: str) -> None:
    """It is transient, and the next mail has a new connection."""
    room.refuse[command] = "hang up"
    async with sink_for(room) as sink:
        with pytest.raises(TransientError, match="closed the connection"):
            await sink.send(letter())
        room.refuse.clear()
        await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [1]


async def test_a_server_that_hangs_up_while_it_wipes_out(room: Mailroom) -> None:
    """A RSET that fails costs the connection, and hides not why the mail was refused."""
    room.refuse |= {"DATA": "451 4.3.0 disk full", "RSET": "421 4.3.2 and now I go"}
    async with sink_for(room) as sink:
        with pytest.raises(TransientError, match="451 to DATA"):
            await sink.send(letter())
        room.refuse.clear()
        await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [1]


async def test_a_cancelled_mail_takes_its_connection_with_it(room: Mailroom) -> None:
    """A connection with a conversation half done is never used again."""
    room.before_taking = gate = Gate(mails=1)
    async with sink_for(room) as sink:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.send, letter())
            with anyio.fail_after(10):
                await gate.reached.wait()
            tasks.cancel_scope.cancel()
        assert sink._connections._free == []
        room.before_taking = None
        await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [1]


async def test_connecting_can_be_cancelled() -> None:
    """A server that accepts and says nothing holds a mail no longer than its lane allows."""
    connected = anyio.Event()
    clients: list[asyncio.StreamWriter] = []

    def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        connected.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    room = Mailroom(port=server.sockets[0].getsockname()[1])
    async with sink_for(room) as sink, anyio.create_task_group() as tasks:
        tasks.start_soon(sink.send, letter())
        with anyio.fail_after(10):
            await connected.wait()
        tasks.cancel_scope.cancel()
    assert sink._connections._free == []
    for client in clients:
        client.close()
    server.close()


async def test_what_a_cancelled_mail_has_not_said_stays_unsaid() -> None:
    """The rest of its bytes is thrown away, not flushed: else the server takes a mail that the lane sends again."""
    listening = anyio.Event()
    go_on = anyio.Event()
    heard = bytearray()
    gone = anyio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 slow.test\r\n")
        async for line in reader:
            if line.startswith(b"DATA"):
                break
            writer.write(b"250 OK\r\n")
        writer.write(b"354 go ahead\r\n")
        heard.extend(await reader.readexactly(1000))
        listening.set()
        await go_on.wait()  # meanwhile the client's bytes pile up on its side
        try:
            while chunk := await reader.read(1 << 16):
                heard.extend(chunk)
        except ConnectionError:
            pass
        finally:
            writer.close()
            gone.set()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    room = Mailroom(port=server.sockets[0].getsockname()[1])
    with anyio.fail_after(20):
        async with sink_for(room, max_message_bytes=50_000_000) as sink:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sink.send, letter(text="All work and no play\n" * 1_000_000))
                await listening.wait()
                tasks.cancel_scope.cancel()
            go_on.set()
            await gone.wait()
    server.close()
    assert 1000 <= len(heard) < 20_000_000
    assert not heard.endswith(b"\r\n.\r\n")


async def test_no_more_connections_than_are_allowed(room: Mailroom) -> None:
    """Mails beyond that wait for one to come free, and none of them shares."""
    async with sink_for(room, connections=2) as sink:
        at_once = 0

        async def hold() -> None:
            nonlocal at_once
            at_once = max(at_once, len(room.connections))
            await anyio.lowlevel.checkpoint()

        room.before_taking = hold
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(sink.send, letter(f"ann{number}@example.org"))
    assert len(room.connections) == at_once == 2
    assert len({mail.recipients[0] for mail in room.mails}) == len(room.mails) == 8


async def test_a_place_in_the_pool_is_given_back_whatever_happens(room: Mailroom) -> None:
    """A refused, a broken and a cancelled mail leave room for the next."""
    async with sink_for(room, connections=1) as sink:
        for fault in ("550 no", "hang up", "421 no"):
            room.refuse["DATA"] = fault
            with pytest.raises((PermanentError, TransientError)):
                await sink.send(letter())
        room.refuse["DATA"] = "silence"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.send, letter())
            with anyio.fail_after(10):
                await room.silent.wait()
            tasks.cancel_scope.cancel()
        room.refuse.clear()
        with anyio.fail_after(10):
            await sink.send(letter())
    assert len(room.mails) == 1


async def test_a_connection_has_so_many_mails(room: Mailroom) -> None:
    """Then it takes its leave, and the next mail has a new one."""
    async with sink_for(room, mails_per_connection=2) as sink:
        for _ in range(5):
            await sink.send(letter())
        assert room.commands.count("QUIT") == 2
    assert [mail.connection for mail in room.mails] == [0, 0, 1, 1, 2]


async def test_an_idle_connection_is_closed_without_a_further_mail(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server need not time it out."""
    monkeypatch.setattr("sidefx_sinks.email.connections._SWEEP", 0.01)
    async with sink_for(room, idle=0.01) as sink:
        await sink.send(letter())
        await until(lambda: room.connections[0].transport is None)
        assert sink._connections._free == []
        await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [0, 1]


async def test_recipients_are_paced(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recipient_rate` counts recipients, over all connections: each mail makes the next wait for its own number."""
    pauses: list[float] = []
    clock = 1000.0

    async def sleep_until(moment: float) -> None:
        nonlocal clock
        pauses.append(round(max(0.0, moment - clock), 6))
        clock = max(clock, moment)

    monkeypatch.setattr("sidefx_sinks.email.pace.anyio.sleep_until", sleep_until)
    monkeypatch.setattr("sidefx_sinks.email.pace.anyio.current_time", lambda: clock)
    async with sink_for(room, recipient_rate="10/s", max_recipients=2) as sink:
        await sink.send(letter("a@example.org", "b@example.org", "c@example.org"))
        await sink.send(letter())
        clock += 60.0
        await sink.send(letter())
        await sink.send(letter())
    assert pauses == [0.0, 0.2, 0.1, 0.0, 0.1]


async def test_who_is_cancelled_while_it_waits_takes_no_place(room: Mailroom) -> None:
    """Else attempts that time out would push those behind them away for ever."""
    async with sink_for(room, recipient_rate="1/h") as sink:
        await sink.send(letter())
        for _ in range(3):
            with anyio.move_on_after(0.01):
                await sink.send(letter())
        pace = sink._transport._pace  # type: ignore[union-attr]
        assert 0 < pace._free_at - anyio.current_time() <= 3600
    assert len(room.mails) == 1
