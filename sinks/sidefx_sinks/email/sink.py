"""`Email`: one mail for each `email` event, by SMTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import anyio
from aiosmtplib import SMTP, SMTPException, SMTPRecipientRefused
from pydantic import Field

from sidefx import EmailEvent, PermanentError, TransientError
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.email.address import ascii_domain, mailbox, masked
from sidefx_sinks.email.connections import Connections, Server, discard
from sidefx_sinks.email.message import Mail, compose
from sidefx_sinks.email.recipients import Ledger, Progress
from sidefx_sinks.email.replies import code, failure, is_permanent
from sidefx_sinks.email.templates import Templates

T = TypeVar("T")

_PORTS = {"none": 25, "starttls": 587, "tls": 465}


class Email:
    """Sends each event as one mail to all its recipients.

    The `Message-ID` is made of the event's id, so it is the same in every attempt. A recipient that
    the server refuses does not keep the others from the mail, and a retry goes only to those who
    are still without it.

    Raises:
        ValueError: the settings contradict each other, or would send a password in the clear.
    """

    backend = "asyncio"  # aiosmtplib knows no other

    def __init__(
        self,
        *,
        sender: Annotated[str, Field(description="The From address: 'shop@example.org' or 'Shop <shop@example.org>'.")],
        host: Annotated[str, Field(description="The SMTP server's name or IP address.")] = "localhost",
        port: Annotated[
            int | None, Field(ge=1, le=65535, description="Default: 587 with starttls, 465 with tls, 25 with none.")
        ] = None,
        tls: Annotated[
            Literal["none", "starttls", "tls"],
            Field(description="starttls: encrypted before anything is said, or not at all. tls: from the first byte."),
        ] = "starttls",
        ca_file: Annotated[
            Path | None, Field(description="PEM file of the authorities to trust, in place of the system's.")
        ] = None,
        username: Annotated[str | None, Field(description="For AUTH; needs password.")] = None,
        password: Annotated[Secret | None, Field(description="For AUTH; needs username.")] = None,
        local_hostname: Annotated[
            str | None, Field(description="The name given in EHLO. Default: this machine's.")
        ] = None,
        templates: Annotated[
            Path | None, Field(description="Directory of the Jinja2 templates NAME.txt and NAME.html.")
        ] = None,
        max_message_bytes: Annotated[
            int, Field(gt=0, description="Of a whole mail, attachments encoded, in bytes; a larger one is rejected.")
        ] = 10_000_000,
        idle: Annotated[
            float, Field(ge=0, description="Seconds after which an unused connection is renewed, not trusted.")
        ] = 30.0,
    ) -> None:
        self._sender = _setting("sender", mailbox, sender)
        if not _is_ip_address(host):
            host = _setting("host", ascii_domain, host)
        if local_hostname is not None:
            local_hostname = _setting("local_hostname", ascii_domain, local_hostname)
        if (username is None) != (password is None):
            msg = "username and password belong together: give both, or neither"
            raise ValueError(msg)
        if password is not None and tls == "none" and not _is_this_machine(host):
            msg = f"tls = 'none' would send the password to {host} in the clear; use 'starttls' or 'tls'"
            raise ValueError(msg)
        if ca_file is not None and tls == "none":
            msg = "ca_file has no use with tls = 'none'"
            raise ValueError(msg)
        self._server = Server(
            host=host,
            port=port or _PORTS[tls],
            tls=tls,
            ca_file=ca_file,
            username=username,
            password=None if password is None else as_secret(password),
            local_hostname=local_hostname,
        )
        self._connections = Connections(self._server, idle=idle)
        self._directory = templates
        self._templates = None if templates is None else Templates(templates, max_characters=max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._ledger = Ledger()

    async def __aenter__(self) -> Self:
        """Find out what is missing on disk before the first mail does; nothing is connected yet.

        Raises:
            OSError: the templates' directory or `ca_file` is not there.
        """
        if self._directory is not None and not await anyio.Path(self._directory).is_dir():
            msg = f"templates: {self._directory} is not a directory"
            raise NotADirectoryError(msg)
        try:
            await self._connections.prepare()
        except OSError as error:
            msg = f"ca_file: cannot load {self._server.ca_file}: {error.strerror or error}"
            raise OSError(msg) from error
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connections.close()

    async def send(self, event: EmailEvent) -> None:
        """Send the event's mail to those of its recipients who are still without it.

        Raises:
            PermanentError: the mail cannot be made, the server refuses it (5xx), or refuses some
                recipients for good; the others have it.
            TransientError: the server cannot be reached, or refuses for now (4xx) the mail or some recipients.
        """
        # In a thread: encoding megabytes of attachments, or a slow template, must not hold the event loop.
        mail = await anyio.to_thread.run_sync(self._compose, event, abandon_on_cancel=True)
        try:
            await self._deliver(mail, self._ledger[event.id])
        except PermanentError:
            self._ledger.give_up(event.id)
            raise
        self._ledger.forget(event.id)

    async def check(self) -> None:
        """Connect, encrypt and log in as for a mail, and say NOOP.

        Raises:
            PermanentError, TransientError: what failed, in one line with host and port.
        """
        try:
            client = await self._connections.connect()
            try:
                await client.noop()
                await client.quit()
            finally:
                discard(client)
        except (SMTPException, OSError) as error:
            raise failure(error, str(self._server)) from None

    def _compose(self, event: EmailEvent) -> Mail:
        text, html = event.text, event.html
        if event.template is not None and (text is None or html is None):
            if self._templates is None:
                msg = f"template {event.template!r} cannot be rendered: set the sink's templates to a directory"
                raise PermanentError(msg)
            from_text, from_html = self._templates.render(event.template, event.context)
            text = from_text if text is None else text
            html = from_html if html is None else html
        return compose(event, self._sender, text=text, html=html, max_bytes=self._max_message_bytes)

    async def _deliver(self, mail: Mail, progress: Progress) -> None:
        deferred: dict[str, str] = {}
        if still_open := progress.still_open(mail.recipients):
            try:
                async with self._connections.borrow(partial(self._begin, mail=mail)) as client:
                    deferred = await self._transfer(client, mail, still_open, progress)
            except (SMTPException, OSError) as error:
                raise failure(error, str(self._server)) from None  # the cause holds addresses
        if deferred:
            msg = f"{self._server} refused {_listed(deferred, mail)} for now; a retry goes only to those still open"
            raise TransientError(msg)
        if progress.refused:
            rest = "the others have the mail" if progress.delivered else "nobody has the mail"
            msg = f"{self._server} refused {_listed(progress.refused, mail)} for good; {rest}"
            raise PermanentError(msg)

    async def _begin(self, client: SMTP, *, mail: Mail) -> None:
        options = []
        if mail.international:
            if not client.supports_extension("smtputf8"):
                msg = f"{self._server} does not offer SMTPUTF8, which an address of the mail needs (RFC 6531)"
                raise PermanentError(msg)
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        if client.supports_extension("size"):  # RFC 1870: refused before it is sent, where it is too large
            options.append(f"SIZE={len(mail.content)}")
        await client.mail(mail.sender, options=options, encoding="utf-8")

    @staticmethod
    async def _transfer(client: SMTP, mail: Mail, recipients: list[str], progress: Progress) -> dict[str, str]:
        """Send the mail to those whom the server takes; the rest is in `progress`, or returned if refused for now."""
        accepted: list[str] = []
        deferred: dict[str, str] = {}
        for recipient in recipients:
            try:
                await client.rcpt(recipient, encoding="utf-8")
            except SMTPRecipientRefused as reply:
                (progress.refused if is_permanent(reply) else deferred)[recipient] = code(reply)
            else:
                accepted.append(recipient)
        if accepted:
            await client.data(mail.content)
            progress.delivered.update(accepted)
        else:
            await client.rset()
        return deferred


def _setting(name: str, parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except ValueError as error:
        msg = f"{name} is refused: {error}"
        raise ValueError(msg) from None


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_this_machine(host: str) -> bool:
    return ip_address(host).is_loopback if _is_ip_address(host) else host.lower() == "localhost"


def _listed(codes: dict[str, str], mail: Mail) -> str:
    some = ", ".join(f"{masked(address)}: {answer}" for address, answer in list(codes.items())[:5])
    return f"{len(codes)} of {len(mail.recipients)} recipients ({some}{', ...' if len(codes) > 5 else ''})"
