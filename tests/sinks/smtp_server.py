"""A real SMTP server (aiosmtpd) on a loopback socket, which notes what it sees and refuses what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default as parsing
from typing import TYPE_CHECKING, Any, cast

import anyio
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from sidefx import EmailEvent, email
from sidefx_sinks.email import Email

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from email.message import EmailMessage


@dataclass
class Arrived:
    """One mail, as the server took it."""

    sender: str
    recipients: list[str]
    content: bytes
    options: list[str]
    connection: int

    @property
    def message(self) -> EmailMessage:
        """Parsed, its headers decoded."""
        return message_from_bytes(self.content, policy=parsing)

    @property
    def head(self) -> str:
        """The header lines, as they came."""
        return self.content.partition(b"\r\n\r\n")[0].decode()


class Server(SMTP):
    """One connection."""

    def hang_up(self) -> None:
        """Cut the connection without a word."""
        cast("asyncio.WriteTransport", self.transport).abort()


@dataclass
class Mailroom:
    """aiosmtpd's handler, and what it saw."""

    port: int = 0
    mails: list[Arrived] = field(default_factory=list)
    connections: list[Server] = field(default_factory=list)
    """Every one that was ever opened, in order."""
    commands: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    """A command (`DATA`, `MAIL on 0` for connection 0), or the address at RCPT, to the answer; `hang up` is one."""
    before_taking: Callable[[], Any] | None = None
    """Awaited when a mail is wholly there, before it is answered."""
    logins: list[LoginPassword] = field(default_factory=list)

    def _note(self, server: Server, command: str, key: str | None = None) -> str | None:
        self.commands.append(command)
        connection = self.connections.index(server)
        answer = self.refuse.get(key or command) or self.refuse.get(f"{command} on {connection}")
        if answer == "hang up":
            server.hang_up()
        return answer

    async def handle_MAIL(  # noqa: N802
        self, server: Server, _: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := self._note(server, "MAIL"):
            return refusal
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server: Server, _: Session, envelope: Envelope, address: str, __: list[str]) -> str:  # noqa: N802
        if refusal := self._note(server, "RCPT", address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Server, _: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.before_taking is not None:
            await self.before_taking()
        if refusal := self._note(server, "DATA"):
            return refusal
        content = envelope.original_content
        assert envelope.mail_from is not None
        assert content is not None
        connection = self.connections.index(server)
        self.mails.append(Arrived(envelope.mail_from, envelope.rcpt_tos, content, envelope.mail_options, connection))
        return "250 OK"

    async def handle_NOOP(self, server: Server, *_: object) -> str:  # noqa: N802
        return self._note(server, "NOOP") or "250 OK"

    async def handle_RSET(self, server: Server, *_: object) -> str:  # noqa: N802
        return self._note(server, "RSET") or "250 OK"

    async def handle_QUIT(self, server: Server, *_: object) -> str:  # noqa: N802
        return self._note(server, "QUIT") or "221 Bye"

    def authenticate(self, _: SMTP, __: Session, ___: Envelope, ____: str, data: Any) -> AuthResult:
        """Whether it is `shop` with the password `hunter2-secret`."""
        self.logins.append(data)
        return AuthResult(success=data == LoginPassword(b"shop", b"hunter2-secret"), handled=False)


@contextlib.asynccontextmanager
async def serving(
    *, tls: ssl.SSLContext | None = None, implicit: bool = False, auth: bool = False, **options: Any
) -> AsyncIterator[Mailroom]:
    """A server on a free port of 127.0.0.1, in the test's own loop; `tls` is offered as STARTTLS, or `implicit`."""
    room = Mailroom()
    if auth:
        options["authenticator"] = room.authenticate
    loop = asyncio.get_running_loop()

    def connected() -> Server:
        server = Server(room, loop=loop, hostname="mail.test", tls_context=None if implicit else tls, **options)
        room.connections.append(server)
        return server

    listener = await loop.create_server(connected, "127.0.0.1", 0, ssl=tls if implicit else None)
    room.port = listener.sockets[0].getsockname()[1]
    try:
        yield room
    finally:
        listener.close()
        for server in room.connections:
            if server.transport is not None:
                server.hang_up()
        with anyio.move_on_after(5):
            await listener.wait_closed()


def sink_for(room: Mailroom, **settings: Any) -> Email:
    """The sink with that server, not open yet."""
    defaults = {"sender": "Shop <shop@example.org>", "host": "127.0.0.1", "port": room.port, "tls": "none"}
    return Email(**defaults | settings)


def letter(*to: str, **values: Any) -> EmailEvent:
    """A mail with nothing wrong in it."""
    return email(**{"to": to or ("ann@example.org",), "subject": "Hello", "text": "Hi"} | values)
