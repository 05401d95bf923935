"""Connections to the SMTP server: opened, kept, renewed, and never used by two mails at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from weakref import WeakKeyDictionary

import anyio
from aiosmtplib import SMTP, SMTPException, SMTPResponseException, SMTPServerDisconnected

from sidefx_sinks.email.address import ascii_domain
from sidefx_sinks.email.replies import StartTlsRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidefx_sinks.email.login import Login

_PATIENCE = 300.0  # seconds for one answer; the lane's `timeout` is what ends a call, long before
_PARTING = 2.0  # seconds for taking leave
_SWEEP = 1.0  # seconds: unused connections are looked at no more often
_CLOSING = 421  # RFC 5321, 4.2.3: "Service not available, closing transmission channel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and how to come in."""

    host: str
    port: int
    tls: Literal["none", "starttls", "tls"]
    ca_file: Path | None
    login: Login | None
    local_hostname: str | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Certificates and host names are always verified. Reads files.

        Raises:
            OSError: `ca_file` cannot be read.
        """
        return None if self.tls == "none" else ssl.create_default_context(cafile=self.ca_file)

    async def connect(self, tls_context: ssl.SSLContext | None) -> SMTP:
        """A new connection, encrypted and logged in as configured.

        Raises:
            SMTPException, OSError: what failed.
        """
        client = SMTP(
            hostname=self.host,
            port=self.port,
            local_hostname=self.local_hostname or _machine(),
            timeout=_PATIENCE,
            use_tls=self.tls == "tls",
            start_tls=False,  # here, step by step, so that each has an error of its own
            tls_context=tls_context,
        )
        try:
            await client.connect()
            await client.ehlo()
            if self.tls == "starttls":
                await _start_tls(client)
                await client.ehlo()
            if self.login is not None:
                await self.login(client)
        except BaseException:
            discard(client)
            raise
        return client


async def _start_tls(client: SMTP) -> None:
    try:
        await client.starttls()
    except SMTPResponseException as reply:
        raise StartTlsRefusedError(reply.code, reply.message) from None


def _machine() -> str:
    """This machine's name for EHLO, without a look-up in DNS; RFC 5321's address literal where it is no host name."""
    try:
        return ascii_domain(socket.gethostname())
    except ValueError:
        return "[127.0.0.1]"


class Connections:
    """A pool: at most `most` connections, each for one mail at a time.

    A kept one that nobody needs for `idle` seconds is closed, and so is one after `mails` mails:
    servers count them, and a new connection may find a less busy server behind the name.
    """

    def __init__(self, server: Server, *, most: int, idle: float, mails: int | None) -> None:
        self._server = server
        self._most = most
        self._idle = idle
        self._mails = mails
        self._places = asyncio.Semaphore(most)
        self._free: list[tuple[float, SMTP]] = []
        self._begun: WeakKeyDictionary[SMTP, int] = WeakKeyDictionary()
        """How many mails each connection has had."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._tls_context: ssl.SSLContext | None = None

    async def open(self) -> None:
        """Read what TLS needs, and make ready for the loop that runs."""
        self._places = asyncio.Semaphore(self._most)
        if self._server.login is not None:
            self._server.login.open()
        self._tls_context = await anyio.to_thread.run_sync(self._server.tls_context)

    async def connect(self) -> SMTP:
        """A new connection, the caller's own: to be discarded, not to be shared."""
        return await self._server.connect(self._tls_context)

    @contextlib.asynccontextmanager
    async def borrow(self, begin: Callable[[SMTP], Awaitable[None]]) -> AsyncIterator[SMTP]:
        """A connection for one mail, on which `begin`, its first command, has been answered.

        A kept connection may have died unnoticed. Where that shows at the first command, before
        anything of the mail was sent, it is renewed, once. It is kept again after success, and
        after a refusal that a RSET wipes out; it is cut after all else, cancellation included.
        """
        async with self._places, self._borrowed(begin) as client:
            yield client

    @contextlib.asynccontextmanager
    async def _borrowed(self, begin: Callable[[SMTP], Awaitable[None]]) -> AsyncIterator[SMTP]:
        client, kept = self._take(), True
        if client is None:
            client, kept = await self.connect(), False
        try:
            try:
                await begin(client)
            except (SMTPServerDisconnected, SMTPResponseException) as error:
                if not kept or getattr(error, "code", _CLOSING) != _CLOSING:
                    raise
                discard(client)
                client = await self.connect()
                await begin(client)
            yield client
        except SMTPResponseException:
            try:
                await client.rset()
            except (SMTPException, OSError):
                discard(client)
            except BaseException:
                discard(client)
                raise
            else:
                await self._give_back(client)
            raise
        except BaseException:
            discard(client)
            raise
        await self._give_back(client)

    def _take(self) -> SMTP | None:
        """The freshest connection that may still be trusted; those that may not are closed."""
        self._sweep()
        return self._free.pop()[1] if self._free else None

    async def _give_back(self, client: SMTP) -> None:
        if not client.is_connected:
            return
        self._begun[client] = self._begun.get(client, 0) + 1
        if self._mails is not None and self._begun[client] >= self._mails:
            await leave([client])
            return
        self._free.append((time.monotonic(), client))
        if self._sweeping is None:
            self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(max(self._idle, _SWEEP), self._sweep_and_go_on)

    def _sweep_and_go_on(self) -> None:
        self._sweeping = None
        self._sweep()
        if self._free:
            self._sweep_later()

    def _sweep(self) -> None:
        """Close what is no longer to be trusted."""
        oldest = time.monotonic() - self._idle
        trusted = []
        for since, client in self._free:
            if client.is_connected and since > oldest:
                trusted.append((since, client))
            else:
                client.close()
        self._free = trusted

    async def close(self) -> None:
        """Take leave (QUIT) of every kept connection, for two seconds in all, and close it."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        free, self._free = self._free, []
        await leave([client for _, client in free])


async def leave(clients: list[SMTP]) -> None:
    """Say QUIT, for two seconds in all, and cut the connections; what the server makes of it matters to nobody."""
    try:
        with anyio.move_on_after(_PARTING):
            for client in clients:
                with contextlib.suppress(SMTPException, OSError):
                    await client.quit()
    finally:
        for client in clients:
            discard(client)


def discard(client: SMTP) -> None:
    """Cut the connection. What has not been sent yet is not: a cancelled mail must not slip out after all."""
    if (transport := client.transport) is not None:
        cast("asyncio.WriteTransport", transport).abort()
    client.close()
