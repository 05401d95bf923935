"""A real SMTP server (aiosmtpd) on a loopback socket, which notes what it sees and refuses what it is told to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default as parsing
from typing import TYPE_CHECKING, Any, cast

import anyio
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from sidefx import EmailEvent, email
from sidefx_sinks.email import Email

if TYPE_CHECKING:
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
    """One connection, which answers as the room says, at each stage of the conversation."""

    _greeted = False

    @property
    def room(self) -> Mailroom:
        return cast("Mailroom", self.event_handler)

    async def push(self, status: Any) -> None:
        """Say it; the first that is said is the greeting."""
        if not self._greeted:
            self._greeted = True
            status = await self.room.answer(self, "greeting") or status
        if status != "hang up":
            await super().push(status)

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802
        if refusal := await self.room.answer(self, "STARTTLS"):
            await self.push(refusal)
        else:
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802
        method = arg.partition(" ")[0]
        if refusal := await self.room.answer(self, "AUTH") or await self.room.answer(self, f"AUTH {method}"):
            await self.push(refusal)
        else:
            await super().smtp_AUTH(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        if refusal := await self.room.answer(self, "DATA command"):
            await self.push(refusal)
        else:
            await super().smtp_DATA(arg)

    async def auth_XOAUTH2(self, _: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        """By a bearer token; the refusal comes after a challenge, as Google's and Microsoft's do."""
        user, bearer = base64.b64decode(args[1]).decode().removesuffix("\x01\x01").split("\x01")
        token = bearer.removeprefix("auth=Bearer ")
        self.room.tokens.append(token)
        if user == "user=shop" and token in self.room.valid_tokens:
            return AuthResult(success=True, auth_data=LoginPassword(b"shop", token.encode()))
        await self.challenge_auth('{"status":"400","schemes":"bearer"}')
        return AuthResult(success=False, handled=False, message="535 5.7.8 Username and Password not accepted")

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
    """A stage to the answer; `hang up` and `silence` are two.

    A stage is a command, `AUTH PLAIN`, the address at RCPT, `greeting`, `DATA command` (before the mail), `DATA`
    (after it) or `taken` (the mail is there and counts, the answer is not out); `MAIL on 0` is for connection 0 alone.
    """
    silent: anyio.Event = field(default_factory=anyio.Event)
    """Set when somebody waits for an answer that does not come."""
    tokens: list[str] = field(default_factory=list)
    """The OAuth tokens that were shown."""
    valid_tokens: set[str] = field(default_factory=set)
    before_taking: Callable[[], Any] | None = None
    """Awaited when a mail is wholly there, before it is answered."""
    logins: list[LoginPassword] = field(default_factory=list)

    async def answer(self, server: Server, stage: str) -> str | None:
        """What is to be said at this stage, if anything else than usual."""
        answer = self.refuse.get(stage) or self.refuse.get(f"{stage} on {self.connections.index(server)}")
        if answer == "hang up":
            server.hang_up()
        if answer == "silence":
            self.silent.set()
            await anyio.sleep_forever()
        return answer

    async def _note(self, server: Server, command: str, stage: str | None = None) -> str | None:
        self.commands.append(command)
        return (await self.answer(server, stage) if stage else None) or await self.answer(server, command)

    async def handle_EHLO(  # noqa: N802
        self, server: Server, session: Session, _: Envelope, name: str, offers: list[str]
    ) -> list[str]:
        if refusal := await self.answer(server, "EHLO"):
            return [refusal]
        session.host_name = name
        return offers

    async def handle_MAIL(  # noqa: N802
        self, server: Server, _: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := await self._note(server, "MAIL"):
            return refusal
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server: Server, _: Session, envelope: Envelope, address: str, __: list[str]) -> str:  # noqa: N802
        if refusal := await self._note(server, "RCPT", address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Server, _: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.before_taking is not None:
            await self.before_taking()
        if refusal := await self._note(server, "DATA"):
            return refusal
        content = envelope.original_content
        assert envelope.mail_from is not None
        assert content is not None
        connection = self.connections.index(server)
        self.mails.append(Arrived(envelope.mail_from, envelope.rcpt_tos, content, envelope.mail_options, connection))
        return await self.answer(server, "taken") or "250 OK"

    async def handle_NOOP(self, server: Server, *_: object) -> str:  # noqa: N802
        return await self._note(server, "NOOP") or "250 OK"

    async def handle_RSET(self, server: Server, *_: object) -> str:  # noqa: N802
        return await self._note(server, "RSET") or "250 OK"

    async def handle_QUIT(self, server: Server, *_: object) -> str:  # noqa: N802
        return await self._note(server, "QUIT") or "221 Bye"

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


def server_side(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def sink_for(room: Mailroom, **settings: Any) -> Email:
    """The sink with that server, not open yet."""
    defaults = {"sender": "Shop <shop@example.org>", "host": "127.0.0.1", "port": room.port, "tls": "none"}
    return Email(**defaults | settings)


def letter(*to: str, **values: Any) -> EmailEvent:
    """A mail with nothing wrong in it."""
    return email(**{"to": to or ("ann@example.org",), "subject": "Hello", "text": "Hi"} | values)
