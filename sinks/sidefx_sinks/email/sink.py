"""`Email`: one mail for each `email` event."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, cast

import anyio
from pydantic import Field, ImportString

from sidefx import EmailEvent, PermanentError, RateLimit, TransientError
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.email.address import Mailbox, ascii_domain, forbid_control_characters, mailbox, masked
from sidefx_sinks.email.connections import Connections, Server
from sidefx_sinks.email.directory import Directory
from sidefx_sinks.email.login import Login, OAuth, Password, TokenSource
from sidefx_sinks.email.message import Mail, compose
from sidefx_sinks.email.pace import Pace
from sidefx_sinks.email.recipients import Ledger, Progress
from sidefx_sinks.email.smtp import Smtp
from sidefx_sinks.email.state import State
from sidefx_sinks.email.suppression import SUPPRESSED, Rule, Suppression
from sidefx_sinks.email.templates import Templates
from sidefx_sinks.email.threads import DaemonThreads

T = TypeVar("T")

_PORTS = {"none": 25, "starttls": 587, "tls": 465}


class Email:
    """Sends each event as one mail to all its recipients.

    The `Message-ID` is made of the event's id, so it is the same in every attempt. A recipient that
    the server refuses does not keep the others from the mail, and a retry goes only to those who
    are still without it.

    Raises:
        ValueError: the settings contradict each other, or would send a secret in the clear.
    """

    backend = "asyncio"  # aiosmtplib knows no other

    def __init__(
        self,
        *,
        sender: Annotated[str, Field(description="The From address: 'shop@example.org' or 'Shop <shop@example.org>'.")],
        transport: Annotated[
            Literal["smtp", "directory"], Field(description="directory: write .eml files, send nothing.")
        ] = "smtp",
        directory: Annotated[Path | None, Field(description="Where transport = 'directory' writes them.")] = None,
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
        username: Annotated[str | None, Field(description="For AUTH; needs password, oauth_token or oauth.")] = None,
        password: Annotated[Secret | None, Field(description="For AUTH; needs username.")] = None,
        oauth_token: Annotated[
            Secret | None, Field(description="An access token for AUTH XOAUTH2, in place of the password.")
        ] = None,
        oauth: Annotated[
            ImportString[TokenSource] | None,
            Field(description="module:name of a function that gives such a token; asked anew when one is refused."),
        ] = None,
        local_hostname: Annotated[
            str | None, Field(description="The name given in EHLO. Default: this machine's.")
        ] = None,
        connections: Annotated[int, Field(gt=0, description="How many may be open at once.")] = 10,
        mails_per_connection: Annotated[
            int | None, Field(gt=0, description="After so many mails a connection is renewed. None: never.")
        ] = 100,
        idle: Annotated[
            float, Field(ge=0, description="Seconds after which an unused connection is closed, not trusted.")
        ] = 30.0,
        max_recipients: Annotated[
            int, Field(gt=0, description="Of one SMTP transaction; a mail to more is sent in several.")
        ] = 100,
        recipient_rate: Annotated[
            str | None, Field(description="At most so many recipients in a period, such as '14/s': all connections.")
        ] = None,
        templates: Annotated[
            Path | None, Field(description="Directory of the Jinja2 templates NAME.txt and NAME.html.")
        ] = None,
        max_message_bytes: Annotated[
            int, Field(gt=0, description="Of a whole mail, attachments encoded, in bytes; a larger one is rejected.")
        ] = 10_000_000,
        redirect_to: Annotated[
            str | list[str] | None, Field(description="For staging: every mail goes to these addresses only.")
        ] = None,
        suppression_file: Annotated[
            Path | None, Field(description="Addresses that have no mail, one a line; '@example.org': a whole domain.")
        ] = None,
        suppressed: Annotated[
            ImportString[Rule] | None,
            Field(description="module:name of a function of an address: whether it is to have no mail."),
        ] = None,
        state: Annotated[
            Path | None, Field(description="SQLite file that remembers, through a restart, who has which mail.")
        ] = None,
    ) -> None:
        self._sender = _setting("sender", mailbox, sender)
        self._redirect_to = [] if redirect_to is None else _redirection(redirect_to)
        self._suppression = Suppression(suppression_file, suppressed)
        self._threads = DaemonThreads()
        self._directory = templates
        self._templates = None if templates is None else Templates(templates, max_characters=max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._state = None if state is None else State(state)
        self._ledger = Ledger(self._state)
        self._server = _server(
            host=host,
            port=port,
            tls=tls,
            ca_file=ca_file,
            login=_login(username, password, oauth_token, oauth),
            local_hostname=local_hostname,
        )
        self._connections = Connections(self._server, most=connections, idle=idle, mails=mails_per_connection)
        pace = Pace(None if recipient_rate is None else _setting("recipient_rate", _rate, recipient_rate))
        if (transport == "directory") != (directory is not None):
            msg = "transport = 'directory' and directory = 'PATH' belong together: give both, or neither"
            raise ValueError(msg)
        self._transport: Smtp | Directory = (
            Smtp(self._server, self._connections, pace, self._ledger, max_recipients=max_recipients)
            if directory is None
            else Directory(directory)
        )

    async def __aenter__(self) -> Self:
        """Find out what is missing on disk before the first mail does; nothing is connected yet.

        Raises:
            OSError, ValueError: a file or directory of the settings is not there, or cannot be used.
        """
        if self._directory is not None and not await anyio.Path(self._directory).is_dir():
            msg = f"templates: {self._directory} is not a directory"
            raise NotADirectoryError(msg)
        self._threads = DaemonThreads()
        self._suppression.open()
        try:
            await self._suppression.read()
        except OSError as error:
            msg = f"suppression_file: {error}"
            raise OSError(msg) from error
        await self._transport.open()
        if self._state is not None:
            try:
                await anyio.to_thread.run_sync(self._state.open)
            except (sqlite3.Error, OSError) as error:
                msg = f"state: cannot use {self._state.path}: {error}"
                raise OSError(msg) from error
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._transport.close()
        finally:
            if self._state is not None:
                self._state.close()

    async def send(self, event: EmailEvent) -> None:
        """Send the event's mail to those of its recipients who are still without it.

        Raises:
            PermanentError: the mail cannot be made, the server refuses it (5xx), or some recipients
                are refused for good or suppressed; the others have it.
            TransientError: the server cannot be reached, or refuses for now (4xx) the mail or some recipients.
        """
        # In a thread: encoding megabytes of attachments, or a slow template, must not hold the event loop.
        mail = await self._threads.run(self._compose, event)
        progress = await self._ledger.find(event.id, mail.recipients)
        try:
            await self._deliver(mail, progress)
        except PermanentError:
            await self._ledger.give_up(event.id, progress)
            raise
        self._ledger.forget(event.id)

    async def check(self) -> None:
        """Connect, encrypt and log in as for a mail, and say NOOP; or write a file and remove it.

        Raises:
            PermanentError, TransientError: what failed, in one line.
        """
        await self._suppression.among([])
        await self._transport.check()

    def _compose(self, event: EmailEvent) -> Mail:
        text, html = event.text, event.html
        if event.template is not None and (text is None or html is None):
            if self._templates is None:
                msg = f"template {event.template!r} cannot be rendered: set the sink's templates to a directory"
                raise PermanentError(msg)
            from_text, from_html = self._templates.render(event.template, event.context)
            text = from_text if text is None else text
            html = from_html if html is None else html
        return compose(
            event,
            self._sender,
            text=text,
            html=html,
            max_bytes=self._max_message_bytes,
            redirect_to=self._redirect_to,
        )

    async def _deliver(self, mail: Mail, progress: Progress) -> None:
        suppressed = await self._suppression.among(progress.still_open(mail.recipients))
        progress.refused |= dict.fromkeys(suppressed, SUPPRESSED)
        deferred: dict[str, str] = {}
        if still_open := progress.still_open(mail.recipients):
            deferred = await self._transport.deliver(mail, still_open, progress)
        if deferred:
            msg = f"{self._transport} refused {_listed(deferred, mail)} for now; a retry goes only to those still open"
            raise TransientError(msg)
        if progress.refused:
            raise PermanentError(self._refusal(mail, progress))

    def _refusal(self, mail: Mail, progress: Progress) -> str:
        refused = {one: why for one, why in progress.refused.items() if why != SUPPRESSED}
        suppressed = {one: why for one, why in progress.refused.items() if why == SUPPRESSED}
        who = [f"{self._transport} refused {_listed(refused, mail)} for good"] if refused else []
        who += [f"{_listed(suppressed, mail)} are to have no mail"] if suppressed else []
        rest = "the others have the mail" if progress.delivered else "nobody has the mail"
        return f"{', and '.join(who)}; {rest}"


def _rate(value: str) -> RateLimit:
    try:
        return RateLimit.model_validate(value)
    except ValueError:
        msg = "a rate is written as '14/s', '100/min' or '5000/h'"
        raise ValueError(msg) from None


def _redirection(value: str | list[str]) -> list[Mailbox]:
    addresses = [value] if isinstance(value, str) else value
    if not any(addresses):
        msg = "redirect_to is empty: the mails would go to nobody, or to those whom it is to protect; leave it out"
        raise ValueError(msg)
    return [_setting("redirect_to", mailbox, address) for address in addresses]


def _login(
    username: str | None, password: Secret | None, oauth_token: Secret | None, oauth: TokenSource | None
) -> Login | None:
    given = [one for one in (password, oauth_token, oauth) if one is not None]
    if len(given) > 1:
        msg = "password, oauth_token and oauth are three ways to log in: give one of them"
        raise ValueError(msg)
    if (username is None) == bool(given):
        msg = "username and password (or oauth_token, or oauth) belong together: give both, or neither"
        raise ValueError(msg)
    if username is None:
        return None
    _setting("username", forbid_control_characters, username)
    if password is not None:
        return Password(username, as_secret(password))
    return OAuth(username, as_secret(oauth_token) if oauth_token is not None else cast("TokenSource", oauth))


def _server(
    *,
    host: str,
    port: int | None,
    tls: Literal["none", "starttls", "tls"],
    ca_file: Path | None,
    login: Login | None,
    local_hostname: str | None,
) -> Server:
    if not _is_ip_address(host):
        host = _setting("host", ascii_domain, host)
    if local_hostname is not None:
        local_hostname = _setting("local_hostname", ascii_domain, local_hostname)
    if login is not None and tls == "none" and not _is_this_machine(host):
        msg = f"tls = 'none' would send the password or token to {host} in the clear; use 'starttls' or 'tls'"
        raise ValueError(msg)
    if ca_file is not None and tls == "none":
        msg = "ca_file has no use with tls = 'none'"
        raise ValueError(msg)
    return Server(
        host=host, port=port or _PORTS[tls], tls=tls, ca_file=ca_file, login=login, local_hostname=local_hostname
    )


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
