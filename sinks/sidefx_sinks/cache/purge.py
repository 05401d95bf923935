"""`PurgeStore`: HTTP caches in front of the application, cleared by `PURGE` requests to each of their nodes.

Varnish with vmod_xkey: https://github.com/varnish/varnish-modules/blob/master/src/vmod_xkey.vcc.
nginx: https://github.com/nginx-modules/ngx_cache_purge, or `proxy_cache_purge` of NGINX Plus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from sidefx import PermanentError, TransientError
from sidefx_sinks._http import Client, checked_headers, checked_url, open_client, request
from sidefx_sinks.cache.store import Kind, Target, names

Dialect: TypeAlias = Literal["varnish", "nginx"]

_CLEARS: dict[Dialect, tuple[Kind, ...]] = {"varnish": ("tags", "urls"), "nginx": ("urls",)}
_NOT_CACHED: dict[Dialect, frozenset[int]] = {
    "varnish": frozenset({404}),
    "nginx": frozenset({404, 412}),  # 412 is ngx_cache_purge's default for it
}
_MAX_HEADER = 4_000
"""Bytes of tags in one request; Varnish takes 8 KiB a header line (http_req_hdr_len), many proxies less."""
_CHECKED_PATH = "/.sidefx-check"

_TAG = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # visible ASCII without the comma: xkey separates by blanks and commas
_URL = re.compile(r"[\x21-\x7e]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Purge:
    """One request, the same to every node."""

    path: str
    headers: dict[str, str]
    targets: list[Target] = field(default_factory=list)


class PurgeStore:
    """Clears URLs, and tags where the dialect has them, on every node; what is not cached counts as cleared."""

    def __init__(
        self, nodes: Sequence[str], *, dialect: Dialect, tag_header: str, headers: Mapping[str, SecretStr | str] | None
    ) -> None:
        if not _TOKEN.fullmatch(tag_header):
            msg = "tag_header is not a header name"
            raise ValueError(msg)
        self._nodes = [_checked_node(node) for node in nodes]
        self._headers = checked_headers(headers, reserved=(tag_header.lower(),))
        self._dialect: Dialect = dialect
        self._tag_header = tag_header
        self._opened: Client | None = None

    @property
    def clears(self) -> tuple[Kind, ...]:
        """By dialect: nginx knows no tags."""
        return _CLEARS[self._dialect]

    async def open(self) -> None:
        """Make the client; it connects at its first request."""
        self._opened = open_client(headers=self._headers)

    async def close(self) -> None:
        """Close every connection."""
        client, self._opened = self._opened, None
        if client is not None:
            await client.aclose()

    async def check(self) -> None:
        """Purge a path that nobody has, on every node, so that one that forbids PURGE is seen as well."""
        for node in self._nodes:
            await self._send(node, _Purge(_CHECKED_PATH, {}))

    async def clear(self, targets: Sequence[Target]) -> Mapping[Target, Exception]:
        """Clear on all nodes side by side: one that hangs keeps no other waiting."""
        failures: dict[Target, Exception] = {}
        purges = [*self._tag_purges(names(targets, "tags"), failures), *self._url_purges(targets, failures)]
        async with anyio.create_task_group() as group:
            for node in self._nodes:
                group.start_soon(self._purge_node, node, purges, failures)
        return failures

    async def _purge_node(self, node: str, purges: list[_Purge], failures: dict[Target, Exception]) -> None:
        for position, purge in enumerate(purges):
            try:
                await self._send(node, purge)
            except PermanentError as error:
                for target in purge.targets:
                    failures.setdefault(target, error)
            except TransientError as error:  # the node is away or asks for a pause: leave it the rest for later
                failures |= {target: error for later in purges[position:] for target in later.targets}
                return

    async def _send(self, node: str, purge: _Purge) -> None:
        if self._opened is None:
            msg = "the cache sink is not open: use it inside `async with`"
            raise RuntimeError(msg)
        accept = _NOT_CACHED[self._dialect]
        await request(self._opened, "PURGE", node + purge.path, headers=purge.headers, accept=accept)

    def _tag_purges(self, tags: Iterable[str], failures: dict[Target, Exception]) -> list[_Purge]:
        """As few requests as the header's bound allows."""
        purges: list[_Purge] = []
        for tag in tags:
            target = Target("tags", tag)
            if len(tag) > _MAX_HEADER or not _TAG.fullmatch(tag):
                failures[target] = PermanentError(
                    "cache: a tag cannot travel in a header: it is empty, longer than "
                    f"{_MAX_HEADER} bytes, or holds a blank, a comma, a control character or one outside ASCII; "
                    "rename it where responses are tagged"
                )
                continue
            joined = f"{purges[-1].headers[self._tag_header]} {tag}" if purges else ""
            if purges and len(joined) <= _MAX_HEADER:
                purges[-1].headers[self._tag_header] = joined
                purges[-1].targets.append(target)
            else:
                purges.append(_Purge("/", {self._tag_header: tag}, [target]))
        return purges

    def _url_purges(self, targets: Sequence[Target], failures: dict[Target, Exception]) -> list[_Purge]:
        purges = []
        for url in names(targets, "urls"):
            target = Target("urls", url)
            try:
                path, headers = _path_and_host(url)
            except ValueError as error:  # not chained: it may quote the URL
                failures[target] = PermanentError(f"cache: a URL cannot be purged: {error}")
                continue
            if self._dialect == "nginx" and path.endswith(("*", "%2A", "%2a")):
                failures[target] = PermanentError(
                    "cache: a URL that ends in * is not sent: nginx would clear all that begins so"
                )
                continue
            purges.append(_Purge(path, headers, [target]))
        return purges


def _checked_node(node: str) -> str:
    try:
        parts = urlsplit(checked_url(node))
    except ValueError as error:
        msg = f"nodes: {str(error).removeprefix('url: ')}"
        raise ValueError(msg) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        msg = "nodes: give scheme, host, port and perhaps a path; credentials belong in headers, where they stay secret"
        raise ValueError(msg)
    return node.rstrip("/")


def _path_and_host(url: str) -> tuple[str, dict[str, str]]:
    """Path with query, and the Host header where the URL names a host; the fragment is the browser's alone.

    Raises:
        ValueError: it is no URL of http, https or a path; the message does not quote it.
    """
    msg = "give http(s)://HOST/PATH or /PATH, percent-encoded"
    if not _URL.fullmatch(url):
        raise ValueError(msg)
    if url.startswith("/") and not url.startswith("//"):
        path, host = url.partition("#")[0], ""
    else:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError(msg) from None
        host = f"[{host}]" if ":" in host else host
        if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or "@" in parts.netloc:
            raise ValueError(msg)
        if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
            host += f":{port}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return path, {"Host": host} if host else {}
