"""The mail server that the email sink sends to; whatever the address, it ends up here."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.parser import BytesHeaderParser
from email.policy import default
from functools import cached_property
from typing import TYPE_CHECKING

from aiosmtpd.smtp import SMTP

from sidefx.demo.faults import ServerSwitch

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator
    from email.message import EmailMessage

    from aiosmtpd.smtp import Envelope, Session


class Mail:
    """One mail; it is decoded when somebody looks."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @cached_property
    def id(self) -> str:
        """Its `Message-ID`."""
        return str(BytesHeaderParser().parsebytes(self._content)["Message-ID"])

    @cached_property
    def shown(self) -> dict[str, str]:
        """What a reader sees of it."""
        message = message_from_bytes(self._content, policy=default)
        return {
            "id": self.id,
            "to": message["To"] or "",
            "subject": message["Subject"] or "",
            "text": _body(message, "plain"),
            "html": _body(message, "html"),
        }


class Mailbox:
    """aiosmtpd's handler: keeps each mail once."""

    def __init__(self) -> None:
        self.mails: dict[str, Mail] = {}
        """By id, in the order of their arrival."""
        self.switch = ServerSwitch(failing="451 Try again later")

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        """A whole mail has come in."""
        mail = Mail(envelope.original_content or b"")
        if not await self.switch.works():
            return "451 4.3.0 Try again later"
        self.mails.setdefault(mail.id, mail)
        return "250 2.0.0 OK"

    @asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Speaks SMTP on the socket while the block lasts."""
        connections: list[SMTP] = []

        def connected() -> SMTP:
            # aiosmtpd wants to look its own name up otherwise
            connections.append(SMTP(self, hostname="localhost", loop=asyncio.get_running_loop()))
            return connections[-1]

        server = await asyncio.get_running_loop().create_server(connected, sock=listener)
        try:
            yield
        finally:
            server.close()
            for connection in connections:
                if isinstance(connection.transport, asyncio.WriteTransport):
                    connection.transport.abort()
            await server.wait_closed()


def _body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return "" if part is None else str(part.get_content())
