"""What the sinks that speak HTTP share: a client with sane bounds, and errors that the lane understands.

The only module that imports httpx, so that its API-equal successor is a change of one line; which is
also why all of this stands in one file.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple, TypeAlias

import httpx
from pydantic import AfterValidator, Field, SecretStr

from sidefx import PermanentError, TransientError
from sidefx_sinks._secret import as_secret

Client: TypeAlias = httpx.AsyncClient
Response: TypeAlias = httpx.Response

MAX_RETRY_AFTER = 3600.0
"""Seconds: the most that a receiver's `Retry-After` is believed."""
MAX_ANSWER_BYTES = 65_536
"""Of an answer's body; a longer one is cut off by closing the connection."""

# The lane's `timeout` bounds a call; these bounds only end what its cancellation would not reach.
_TIMEOUT = httpx.Timeout(300.0, connect=60.0)
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)

# RFC 9110, section 15: what says "later". The other 5xx are added below, but for the two that never change.
_TRANSIENT = frozenset({408, 425, 429})
_PERMANENT_5XX = frozenset({501, 505})
_REMEDIES = {
    400: "it does not take the request as it is: check that url and format are those of this receiver",
    401: "check the key or the Authorization header",
    403: "check that the key or the Authorization header permits this",
    404: "check url",
    405: "check url: nothing takes this method there",
    407: "check the proxy's credentials",
    410: "the receiver is gone for good: remove this sink or change its url",
    413: "the request is too large for it",
    415: "it does not take this content type: check url and format",
}

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.1: a token
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?")  # section 5.5, ASCII alone
_FRAMING = frozenset({"connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"})


def checked_url(url: str) -> str:
    """The url itself, where it is an absolute one of http or https.

    Raises:
        ValueError: it is not; the message does not repeat it, for a url can be a secret.
    """
    try:
        parts = httpx.URL(url)
        absolute = parts.scheme in {"http", "https"} and bool(parts.host)
    except httpx.InvalidURL:
        absolute = False
    if not absolute:
        msg = "not an absolute http(s) URL; write it as https://host/path"
        raise ValueError(msg)
    return url


def goes_as_it_is(path: str) -> bool:
    """Whether a request leaves the path alone: it takes dot segments out, and encodes what no URL may hold."""
    try:
        return httpx.URL("http://host" + path).raw_path == path.encode()
    except httpx.InvalidURL:
        return False


Url = Annotated[str, AfterValidator(checked_url), Field(json_schema_extra={"format": "uri"})]
"""An absolute http(s) URL, for a sink's settings; its constructor calls `checked_url` for those who call it in code."""


def checked_headers(
    headers: Mapping[str, SecretStr | str] | None, *, reserved: Iterable[str] = ()
) -> dict[str, SecretStr]:
    """The configured headers, found fit for `open_client`; their values stay secrets.

    `reserved` are the names, in lower case, that the sink sets itself.

    Raises:
        ValueError: a name or value that could break out of its header, or one that is not the user's
            to set; the message names the header and never its value.
    """
    taken = _FRAMING.union(reserved)
    secrets = {name: as_secret(value) for name, value in (headers or {}).items()}
    for name, secret in secrets.items():
        value = secret.get_secret_value()
        if not _HEADER_NAME.fullmatch(name):
            msg = f"headers: {name!r} is not a header name"
            raise ValueError(msg)
        if name.lower() in taken:
            msg = f"headers: {name} is set by the sink itself; remove it"
            raise ValueError(msg)
        if not _HEADER_VALUE.fullmatch(value):
            msg = f"headers: the value of {name} is empty, or is not one line of ASCII text"
            raise ValueError(msg)
    return secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How to get to the receiver: through which proxy, and whom to trust. Files are read by `open_client`.

    Raises:
        ValueError: settings that contradict each other, or a proxy that is none; no secret is repeated.
    """

    proxy: SecretStr | str | None = None
    """An http(s) URL, with user and password where the proxy asks for them. None: as the environment says."""
    ca_file: Path | None = None
    """PEM: the only authorities to trust. None: those of the system's bundle, or of `SSL_CERT_FILE`."""
    client_cert: Path | None = None
    """PEM: the certificate to show, with its key in the same file or in `client_key`."""
    client_key: Path | None = None
    client_key_password: SecretStr | str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.proxy is not None:
            object.__setattr__(self, "proxy", _checked_proxy(self.proxy))
        if self.client_key_password is not None:
            object.__setattr__(self, "client_key_password", as_secret(self.client_key_password))
        if self.client_cert is None and (self.client_key is not None or self.client_key_password is not None):
            msg = "client_cert: set the certificate that client_key belongs to"
            raise ValueError(msg)
        if not self.verify and self.ca_file is not None:
            msg = "verify: false trusts everybody, and ca_file somebody: remove one of them"
            raise ValueError(msg)

    def _context(self) -> ssl.SSLContext:
        context = httpx.create_ssl_context(verify=self.verify) if self.ca_file is None else self._own_authorities()
        if self.client_cert is not None:
            # Always a string: without one, the library would ask at the terminal for the key's password.
            password = _laid_open(self.client_key_password or "")
            try:
                context.load_cert_chain(self.client_cert, self.client_key, password)
            except (OSError, ValueError) as error:  # an SSLError is an OSError
                files = " and ".join(str(file) for file in (self.client_cert, self.client_key) if file is not None)
                msg = f"client_cert: {files} cannot be used: {_transport_reason(error)}"
                raise ValueError(msg) from None
        return context

    def _own_authorities(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as error:
            msg = f"ca_file: {self.ca_file} cannot be used: {_transport_reason(error)}"
            raise ValueError(msg) from None

    def _proxy(self) -> httpx.Proxy | None:
        if self.proxy is None:
            return None
        url = httpx.URL(_laid_open(self.proxy))
        # The proxy is no receiver: it is not shown our certificate, and it is always verified.
        trusted = self._own_authorities() if url.scheme == "https" and self.ca_file is not None else None
        return httpx.Proxy(url, ssl_context=trusted)


def _checked_proxy(proxy: SecretStr | str) -> SecretStr:
    secret = as_secret(proxy)
    try:
        checked_url(secret.get_secret_value())
    except ValueError:
        msg = "proxy: not an http(s) URL; write it as http://user:password@host:port"
        raise ValueError(msg) from None
    return secret


def open_client(
    *,
    headers: Mapping[str, str | SecretStr] | None = None,
    auth: tuple[SecretStr, str] | None = None,
    way: Way | None = None,
    proxies: bool = True,
) -> Client:
    """A client for asyncio and trio; whoever opens it awaits its `aclose()`.

    It follows no redirects, keeps no cookies and asks for uncompressed answers. `auth` is user and
    password of HTTP Basic. The usual `HTTPS_PROXY` and `NO_PROXY` are honoured where `way` names no proxy, unless
    `proxies` is false.

    Raises:
        ValueError: a file that `way` names cannot be used.
    """
    way = way or Way()
    if not way.verify:
        _logger.warning(
            "verify = false: certificates are not verified, so whoever is between here and the receiver can read "
            "and change what is sent; name the receiver's authority as ca_file instead"
        )
    fields = httpx.Headers({"User-Agent": "sidefx", "Accept-Encoding": "identity"})
    fields.update({name: _laid_open(value) for name, value in (headers or {}).items()})  # whatever the case of names
    return httpx.AsyncClient(
        headers=fields,
        auth=None if auth is None else (_laid_open(auth[0]), auth[1]),
        verify=way._context(),  # noqa: SLF001 - of this module
        proxy=way._proxy(),  # noqa: SLF001
        timeout=_TIMEOUT,
        limits=_LIMITS,
        mounts=None if proxies else {"http://": None, "https://": None},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        event_hooks={"response": [_forget_location]},
    )


async def _forget_location(response: Response) -> None:
    """Where a redirect leads is not even read: httpx would fail otherwise if that is no URL."""
    response.headers.pop("location", None)


def _laid_open(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


async def request(
    client: Client,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    accept: Container[int] = (),
) -> Response:
    """Send one request; return the answer where its status is 2xx or in `accept`.

    The answer's status and headers can be read; its body has been discarded.

    Raises:
        TransientError: 408, 425, 429, a 5xx (with its `Retry-After`), or no answer at all.
        PermanentError: any other status, redirects included, or a URL that cannot be one.
    """
    response, _ = await _exchange(client, method, url, content=content, headers=headers, accept=accept)
    return response


class Answer(NamedTuple):
    """What the receiver said, as far as a sink may read it."""

    status: int
    retry_after: float | None
    """Seconds, where it asks for a pause."""
    body: bytes | None
    """None where it was longer than what was to be read."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Found in any case of their names."""


async def ask(
    client: Client,
    url: str,
    *,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    accept: Container[int] = (),
    later: Container[int] | None = None,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Answer:
    """`request` by `POST`, for a receiver whose answer's body says something.

    `later` are the statuses that ask to try again, where the receiver's protocol has a list of its own.

    Raises:
        TransientError, PermanentError: as `request` does.
    """
    response, body = await _exchange(
        client, "POST", url, content=content, headers=headers, accept=accept, later=later, max_bytes=max_bytes
    )
    return Answer(response.status_code, retry_after(response), body, response.headers)


async def _exchange(
    client: Client,
    method: str,
    url: str,
    *,
    content: bytes | None,
    headers: Mapping[str, str] | None,
    accept: Container[int],
    later: Container[int] | None = None,
    max_bytes: int | None = None,
) -> tuple[Response, bytes | None]:
    """The answer, and its body where it is to be kept and not longer than `max_bytes`."""
    ours = _in_our_request.set(True)
    try:
        prepared = client.build_request(method, url, content=content, headers=headers)
        prepared.stream = _Content(content or b"")
        response = await client.send(prepared, stream=True)
        try:
            body = await _body(response, max_bytes)
        finally:
            await response.aclose()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        msg = f"{method} was not sent: the url is not an http(s) URL"
        raise PermanentError(msg) from None
    except (httpx.RequestError, OSError) as error:
        # Not chained: the text of a protocol error can quote a header's value.
        msg = f"{method} {_host(client, url)} failed: {_transport_reason(error)}"
        refused = isinstance(error, httpx.ProxyError) and (status := _proxy_status(error)) and not _is_later(status)
        raise (PermanentError(msg) if refused else TransientError(msg)) from None
    finally:
        _in_our_request.reset(ours)
    if response.is_success or response.status_code in accept:
        return response, body
    raise _status_error(method, response, later)


class _Content(httpx.AsyncByteStream):
    """A request's body.

    httpx's own is an async generator, which a connection that breaks on the way leaves unfinished: trio warns of it.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


class _Once(AsyncIterator[bytes]):
    def __init__(self, chunk: bytes) -> None:
        self._left = [chunk]

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


async def reach(client: Client, url: str) -> None:
    """Whether somebody speaks HTTP there, of whatever status; creates nothing: `HEAD` of the host's root.

    Raises:
        TransientError: nobody does; the message names the host and what failed.
    """
    await request(client, "HEAD", str(httpx.URL(url).copy_with(raw_path=b"/")), accept=range(1000))


def retry_after(response: Response) -> float | None:
    """Seconds to wait by its `Retry-After` (RFC 9110, section 10.2.3), from 0 to `MAX_RETRY_AFTER`.

    None where it has none that can be understood. A date is measured against the answer's own
    `Date`, so that the two clocks need not agree.
    """
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER)
    if (then := _http_date(value)) is None:
        return None
    now = _http_date(response.headers.get("date", "")) or datetime.now(UTC)
    return min(max((then - now).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # the asctime form names no zone: it is UTC


def _status_error(method: str, response: Response, later: Container[int] | None) -> PermanentError | TransientError:
    status = response.status_code
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)  # the receiver's own phrase stays out of our logs
    answered = f"{method} {response.url.netloc.decode()} answered {phrase}"
    if _is_later(status) if later is None else status in later:
        return TransientError(answered, retry_after=retry_after(response))
    if response.is_redirect:
        return PermanentError(f"{answered}: redirects are not followed; set url to where it really is")
    return PermanentError(f"{answered}: {_REMEDIES.get(status, 'it refused the request for good')}")


def _is_later(status: int) -> bool:
    return status in _TRANSIENT or (500 <= status < 600 and status not in _PERMANENT_5XX)


def _proxy_status(error: httpx.ProxyError) -> int:
    """What it answered to CONNECT, or 0: the error's text begins with it; the rest is the proxy's own words."""
    start = str(error)[:3]
    return int(start) if start.isascii() and start.isdigit() else 0


def _transport_reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ProxyError):
        status = _proxy_status(error)
        return f"the proxy {f'answered {status}' if status else 'refused'}: check proxy, and its user and password"
    if isinstance(error, httpx.ProtocolError):
        return "the connection was closed before the answer was complete, or the answer is not HTTP"
    root: BaseException | None = error
    while root is not None:
        if isinstance(root, (socket.gaierror, ssl.SSLError)) and root.strerror:
            return root.strerror
        if isinstance(root, OSError) and root.errno:
            return os.strerror(root.errno)
        # trio's is a group of one error for each address of the host
        root = root.exceptions[0] if isinstance(root, BaseExceptionGroup) else root.__cause__ or root.__context__
    return "the connection broke"


def _host(client: Client, url: str) -> str:
    """Host and port alone: the rest of a URL can hold a password or be the secret itself."""
    return client.base_url.join(url).netloc.decode()


async def _body(response: Response, max_bytes: int | None) -> bytes | None:
    """A body of at most `max_bytes`; None where it is longer, or is not wanted.

    A short one is read to its end all the same, so that the connection can be used again; a long one is cut off.
    """
    kept = bytearray()
    whole = max_bytes is not None
    try:
        async for chunk in response.aiter_raw():
            whole = whole and response.num_bytes_downloaded <= (max_bytes or 0)
            if whole:
                kept += chunk
            elif response.num_bytes_downloaded > MAX_ANSWER_BYTES:
                # Read on: the iterators beneath have to end, which the closed connection makes them do.
                await response.aclose()
    except httpx.RequestError:
        if not response.is_closed:
            raise
    return bytes(kept) if whole else None


_logger = logging.getLogger("sidefx.sinks")
_in_our_request: ContextVar[bool] = ContextVar("sidefx_in_our_request", default=False)


def _not_ours(_record: logging.LogRecord) -> bool:
    return not _in_our_request.get()


# httpx logs the whole URL of every request at INFO, and a webhook's URL is often its secret.
logging.getLogger("httpx").addFilter(_not_ours)
