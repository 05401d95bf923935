"""How the sink says who it is: by a password, or by an OAuth 2 access token (XOAUTH2)."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiosmtplib import SMTPAuthenticationError, SMTPException

from sidefx import PermanentError, TransientError
from sidefx_sinks.email.replies import is_permanent
from sidefx_sinks.email.threads import DaemonThreads

if TYPE_CHECKING:
    from aiosmtplib import SMTP
    from pydantic import SecretStr

TokenSource = Callable[[], str | Awaitable[str]]
"""Gives an access token; a plain function runs in a thread."""
_METHODS = ("plain", "login", "cram-md5")  # the last needs a server that keeps passwords in the clear
_METHOD_REFUSED = frozenset({500, 501, 502, 504, 534, 538})  # RFC 4954, 6: it judges the method, not the password
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")  # RFC 6750, 2.1: b64token


class Login(Protocol):
    """What makes a fresh connection ours."""

    def open(self) -> None:
        """Make ready for the loop that runs."""
        ...

    async def __call__(self, client: SMTP) -> None:
        """Raises SMTPAuthenticationError where the server does not believe it."""
        ...


class Password:
    """AUTH with whatever the server offers for passwords."""

    def __init__(self, username: str, password: SecretStr) -> None:
        self._username = username
        self._password = password

    def open(self) -> None:
        """Nothing is needed."""

    async def __call__(self, client: SMTP) -> None:
        """Log in; a wrong password is tried once, by one method: each try counts towards a lock."""
        offered = [method for method in _METHODS if method in client.server_auth_methods]
        if not offered:
            msg = "the server has no AUTH for passwords, or has it with TLS only"
            raise SMTPException(msg)
        for number, method in enumerate(offered, 1):
            authenticate = getattr(client, f"auth_{method.replace('-', '')}")
            try:
                await authenticate(self._username, self._password.get_secret_value())
            except SMTPAuthenticationError as refusal:
                if refusal.code not in _METHOD_REFUSED or number == len(offered):
                    raise
            else:
                return


class OAuth:
    """AUTH XOAUTH2 with a token that is fixed, or that `source` gives.

    The source's token is kept until a server refuses it, which is how an expired one shows; then the
    source is asked anew, once. Several connections that find it refused ask together.

    The format is https://developers.google.com/gmail/imap/xoauth2-protocol; Microsoft's is the same.
    """

    def __init__(self, username: str, source: SecretStr | TokenSource) -> None:
        self._username = username
        self._source = source
        self._token: str | None = None
        self._asking = asyncio.Lock()
        self._threads = DaemonThreads()

    def open(self) -> None:
        """Only one task asks for a token at a time."""
        self._asking = asyncio.Lock()
        self._threads = DaemonThreads()

    async def __call__(self, client: SMTP) -> None:
        """Log in, with a token that is not the refused one where there can be another."""
        if "xoauth2" not in client.server_auth_methods:
            msg = "the server has no AUTH XOAUTH2, which an OAuth token needs"
            raise SMTPException(msg)
        token, fresh = await self._get(refused=None)
        try:
            await client.auth_xoauth2(self._username, token)
        except SMTPAuthenticationError as refusal:
            if fresh or not callable(self._source) or not is_permanent(refusal):
                raise
            token, _ = await self._get(refused=token)
            await client.auth_xoauth2(self._username, token)

    async def _get(self, *, refused: str | None) -> tuple[str, bool]:
        """A token, and whether the source has just given it."""
        if not callable(self._source):
            return _checked(self._source.get_secret_value()), False
        async with self._asking:
            if self._token is not None and self._token != refused:
                return self._token, False
            self._token = None
            self._token = _checked(await _ask(self._source, self._threads))
            return self._token, True


async def _ask(source: TokenSource, threads: DaemonThreads) -> object:
    try:
        if inspect.iscoroutinefunction(source):
            return await source()
        answer: Any = await threads.run(source)
        return await cast("Awaitable[str]", answer) if inspect.isawaitable(answer) else answer
    except Exception as error:  # noqa: BLE001 - it is the user's function; its words may hold a secret
        msg = f"oauth: no token: {type(error).__name__} in {_name(source)}"
        raise TransientError(msg) from None


def _checked(token: object) -> str:
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        msg = "oauth: what was given is no access token: it is a string of letters, digits and '-._~+/=' (RFC 6750)"
        raise PermanentError(msg)
    return token


def _name(source: object) -> str:
    return str(getattr(source, "__qualname__", type(source).__qualname__))
