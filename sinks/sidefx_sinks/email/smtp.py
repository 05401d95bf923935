"""The mail over SMTP: one transaction for as many recipients as the server takes at once."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from aiosmtplib import SMTP, SMTPException, SMTPRecipientRefused

from sidefx import PermanentError
from sidefx_sinks.email.connections import Connections, Server, discard, leave
from sidefx_sinks.email.pace import Pace
from sidefx_sinks.email.replies import code, failure, refuses_recipient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidefx_sinks.email.message import Mail
    from sidefx_sinks.email.recipients import Ledger, Progress


class Smtp:
    """Delivers mails to a server, through a pool of connections."""

    def __init__(
        self, server: Server, connections: Connections, pace: Pace, ledger: Ledger, *, max_recipients: int
    ) -> None:
        self._server = server
        self._connections = connections
        self._pace = pace
        self._ledger = ledger
        self._max_recipients = max_recipients

    def __str__(self) -> str:
        return str(self._server)

    async def open(self) -> None:
        """Read what TLS needs; nothing is connected yet.

        Raises:
            OSError: `ca_file` cannot be read.
        """
        self._pace.open()
        try:
            await self._connections.open()
        except OSError as error:
            msg = f"ca_file: cannot load {self._server.ca_file}: {error.strerror or error}"
            raise OSError(msg) from error

    async def close(self) -> None:
        """Take leave of the server."""
        await self._connections.close()

    async def deliver(self, mail: Mail, recipients: list[str], progress: Progress) -> dict[str, str]:
        """Send the mail to those whom the server takes.

        Who has it and who is refused for good is in `progress`, and on disk, as soon as the server
        has said so; who is refused for now is returned, with the code.

        Raises:
            PermanentError, TransientError: the server refuses the mail, or does not answer.
        """
        deferred: dict[str, str] = {}
        for some in _parts(recipients, self._max_recipients):
            known = progress.known()
            await self._pace.take(len(some))
            try:
                async with self._connections.borrow(partial(self._begin, mail=mail, recipients=some)) as client:
                    deferred |= await self._transfer(client, mail, some, progress)
            except (SMTPException, OSError) as error:
                raise failure(error, str(self._server)) from None  # the cause holds addresses
            finally:
                if progress.known() != known:
                    await self._ledger.save(mail.event_id, progress)
        return deferred

    async def check(self) -> None:
        """Connect, encrypt and log in as for a mail, and say NOOP.

        Raises:
            PermanentError, TransientError: what failed, in one line with host and port.
        """
        try:
            client = await self._connections.connect()
            try:
                await client.noop()
                await leave([client])
            finally:
                discard(client)
        except (SMTPException, OSError) as error:
            raise failure(error, str(self._server)) from None

    async def _begin(self, client: SMTP, *, mail: Mail, recipients: list[str]) -> None:
        options = []
        if mail.international:
            if client.supports_extension("smtputf8"):
                options += ["SMTPUTF8", "BODY=8BITMIME"]
            elif mail.plain_head is None or not any(map(str.isascii, recipients)):
                msg = f"{self._server} does not offer SMTPUTF8, which an address of the mail needs (RFC 6531)"
                raise PermanentError(msg)
        if client.supports_extension("size"):  # RFC 1870: refused before it is sent, where it is too large
            options.append(f"SIZE={len(mail.head) + len(mail.body)}")
        await client.mail(mail.sender, options=options, encoding="utf-8")

    @staticmethod
    async def _transfer(client: SMTP, mail: Mail, recipients: list[str], progress: Progress) -> dict[str, str]:
        international = mail.international and client.supports_extension("smtputf8")
        accepted: list[str] = []
        deferred: dict[str, str] = {}
        for recipient in recipients:
            if not international and not recipient.isascii():
                progress.refused[recipient] = "no SMTPUTF8"
                continue
            try:
                await client.rcpt(recipient, encoding="utf-8")
            except SMTPRecipientRefused as reply:
                (progress.refused if refuses_recipient(reply) else deferred)[recipient] = code(reply)
            else:
                accepted.append(recipient)
        if accepted:
            head = mail.head if international or mail.plain_head is None else mail.plain_head
            await client.data(head + mail.body)
            progress.delivered.update(accepted)
        else:
            await client.rset()
        return deferred


def _parts(recipients: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(recipients)
    while some := list(islice(rest, size)):
        yield some
