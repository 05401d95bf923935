"""Connections to the SMTP server: opened, kept, renewed, and never used by two mails at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import anyio
from aiosmtplib import SMTP, SMTPException, SMTPResponseException, SMTPServerDisconnected

from sidefx_sinks.email.address import ascii_domain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from pydantic import SecretStr

_PATIENCE = 300.0  # seconds for one answer; the lane's `timeout` is what ends a call, long before
_CLOSING = 421  # RFC 5321, 4.2.3: "Service not available, closing transmission channel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and how to come in."""

    host: str
    port: int
    tls: Literal["none", "starttls", "tls"]
    ca_file: Path | None
    username: str | None
    password: SecretStr | None
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
            start_tls=self.tls == "starttls",
            tls_context=tls_context,
        )
        try:
            await client.connect()
            await client.ehlo()
            if self.username is not None and self.password is not None:
                await client.login(self.username, self.password.get_secret_value())
        except BaseException:
            discard(client)
            raise
        return client


def _machine() -> str:
    """This machine's name for EHLO, without a look-up in DNS; RFC 5321's address literal where it is no host name."""
    try:
        return ascii_domain(socket.gethostname())
    except ValueError:
        return "[127.0.0.1]"


class Connections:
    """A free list of connections; as many exist as mails were ever under way at once."""

    def __init__(self, server: Server, *, idle: float) -> None:
        self._server = server
        self._idle = idle
        self._free: list[tuple[float, SMTP]] = []
        self._tls_context: ssl.SSLContext | None = None

    async def prepare(self) -> None:
        """Read what TLS needs, once; `connect` does it where nobody did before."""
        if self._tls_context is None:
            self._tls_context = await anyio.to_thread.run_sync(self._server.tls_context)

    async def connect(self) -> SMTP:
        """A new connection, the caller's own: to be discarded, not to be shared."""
        await self.prepare()
        return await self._server.connect(self._tls_context)

    @contextlib.asynccontextmanager
    async def borrow(self, begin: Callable[[SMTP], Awaitable[None]]) -> AsyncIterator[SMTP]:
        """A connection for one mail, on which `begin`, its first command, has been answered.

        A kept connection may have died unnoticed. Where that shows at the first command, before
        anything of the mail was sent, it is renewed, once. It is kept again after success, and
        after a refusal that a RSET wipes out; it is cut after all else, cancellation included.
        """
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
                self._keep(client)
            raise
        except BaseException:
            discard(client)
            raise
        self._keep(client)

    def _take(self) -> SMTP | None:
        """The freshest connection that may still be trusted; those that may not are closed."""
        oldest = time.monotonic() - self._idle
        trusted = []
        for since, client in self._free:
            if client.is_connected and since > oldest:
                trusted.append((since, client))
            else:
                client.close()
        self._free = trusted
        return trusted.pop()[1] if trusted else None

    def _keep(self, client: SMTP) -> None:
        if client.is_connected:
            self._free.append((time.monotonic(), client))

    async def close(self) -> None:
        """Take leave (QUIT) of every kept connection, for two seconds in all, and close it."""
        free, self._free = self._free, []
        try:
            with anyio.move_on_after(2):
                for _, client in free:
                    with contextlib.suppress(SMTPException, OSError):
                        await client.quit()
        finally:
            for _, client in free:
                discard(client)


def discard(client: SMTP) -> None:
    """Cut the connection. What has not been sent yet is not: a cancelled mail must not slip out after all."""
    if (transport := client.transport) is not None:
        cast("asyncio.WriteTransport", transport).abort()
    client.close()
