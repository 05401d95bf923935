"""`PurgeStore`: HTTP caches in front of the application, cleared by `PURGE` and `BAN` requests to each of their nodes.

Varnish with vmod_xkey: https://github.com/varnish/varnish-modules/blob/master/src/vmod_xkey.vcc.
nginx: https://github.com/nginx-modules/ngx_cache_purge, or `proxy_cache_purge` of NGINX Plus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from pydantic import SecretStr

from sidefx import PermanentError
from sidefx_sinks._http import Client, checked_headers, open_client, request
from sidefx_sinks.cache.bans import BanKind, bans
from sidefx_sinks.cache.fan_out import FanOut
from sidefx_sinks.cache.names import check_tag, checked_node, parse_sent_url
from sidefx_sinks.cache.requests import Purge, in_turn
from sidefx_sinks.cache.store import Kind, Target, Wanted, names

Dialect: TypeAlias = Literal["varnish", "nginx"]

_CLEARS: dict[Dialect, tuple[Kind, ...]] = {"varnish": ("tags", "urls"), "nginx": ("urls",)}
_NOT_CACHED: dict[Dialect, frozenset[int]] = {
    "varnish": frozenset({404}),
    "nginx": frozenset({404, 412}),  # 412 is ngx_cache_purge's default for it
}
_MAX_HEADER = 4_000
"""Bytes of tags in one request; Varnish takes 8 KiB a header line (http_req_hdr_len), many proxies less."""
_CHECKED_PATH = "/.sidefx-check"
_SOFT_HEADER = "Soft-Purge"
_OURS = frozenset({"soft-purge", "x-host", "x-url", "x-content-type", "x-cache-tags"})

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_NOUNS: dict[Kind, str] = {"tags": "a tag", "urls": "a URL", "prefixes": "a prefix", "hosts": "a host"}


class PurgeStore:
    """Clears URLs, and what else the dialect has, on every node; what is not cached counts as cleared."""

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        dialect: Dialect,
        tag_header: str,
        headers: Mapping[str, SecretStr | str] | None,
        banned: Sequence[BanKind] = (),
        soft: bool = False,
    ) -> None:
        """`tag_header` may be empty for the usual one; `banned` kinds go as BAN requests."""
        if tag_header and not _TOKEN.fullmatch(tag_header):
            msg = "tag_header is not a header name"
            raise ValueError(msg)
        if dialect == "nginx" and (banned or soft):
            msg = "bans and soft are for dialect = 'varnish': nginx has neither"
            raise ValueError(msg)
        self._nodes = list(dict.fromkeys(checked_node(node, "nodes") for node in nodes))
        self._tag_header = tag_header or ("xkey-softpurge" if soft else "xkey")
        self._headers = checked_headers(headers, reserved=(self._tag_header.lower(), *_OURS))
        self._dialect: Dialect = dialect
        self._banned = frozenset(banned)
        self._soft = {_SOFT_HEADER: "1"} if soft else {}
        self._fan_out = FanOut(self._nodes)
        self._opened: Client | None = None

    @property
    def clears(self) -> tuple[Kind, ...]:
        """By dialect: nginx knows no tags; prefixes, hosts and everything only where bans are set for them."""
        also: tuple[Kind, ...] = ("prefixes", "hosts", "everything")
        return (*_CLEARS[self._dialect], *(kind for kind in also if kind in self._banned))

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
            await self._send(node, Purge("PURGE", _CHECKED_PATH))

    async def clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        """Clear on all nodes side by side; a retried event goes only to those that have not taken it yet."""
        failures = self._unfit(wanted)
        fit = {target: askers for target, askers in wanted.items() if target not in failures}

        async def clear_node(node: str, targets: Sequence[Target]) -> Mapping[Target, Exception]:
            return await in_turn(self._purges(targets, {}), lambda purge: self._send(node, purge), forgiven=1)

        return failures | await self._fan_out.clear(fit, clear_node)

    async def _send(self, node: str, purge: Purge) -> None:
        if self._opened is None:
            msg = "the cache sink is not open: use it inside `async with`"
            raise RuntimeError(msg)
        accept = _NOT_CACHED[self._dialect] if purge.method == "PURGE" else ()
        await request(self._opened, purge.method, node + purge.path, headers=purge.headers, accept=accept)

    def _unfit(self, wanted: Wanted) -> dict[Target, Exception]:
        """What cannot be asked of any node."""
        found: dict[Target, ValueError] = {}
        self._purges(wanted, found)
        return {
            target: PermanentError(f"cache: {_NOUNS[target.kind]} cannot be purged: {error}")  # it may quote nothing
            for target, error in found.items()
        }

    def _purges(self, targets: Iterable[Target], unfit: dict[Target, ValueError]) -> list[Purge]:
        targets = list(targets)
        purged = [target for target in targets if target.kind not in self._banned]
        return [
            *self._tag_purges(names(purged, "tags"), unfit),
            *self._url_purges(names(purged, "urls"), unfit),
            *bans([target for target in targets if target.kind in self._banned], unfit),
        ]

    def _tag_purges(self, tags: Iterable[str], unfit: dict[Target, ValueError]) -> list[Purge]:
        """As few requests as the header's bound allows."""
        portions: list[list[str]] = []
        size = _MAX_HEADER
        for tag in tags:
            try:
                check_tag(tag, _MAX_HEADER)
            except ValueError as error:
                unfit[Target("tags", tag)] = error
                continue
            size += len(tag) + 1
            if size > _MAX_HEADER:
                portions.append([])
                size = len(tag)
            portions[-1].append(tag)
        return [
            Purge("PURGE", "/", {self._tag_header: " ".join(some)}, targets=tuple(Target("tags", tag) for tag in some))
            for some in portions
        ]

    def _url_purges(self, urls: Iterable[str], unfit: dict[Target, ValueError]) -> list[Purge]:
        purges = []
        for name in urls:
            target = Target("urls", name)
            try:
                url = parse_sent_url(name)
            except ValueError as error:
                unfit[target] = error
                continue
            if self._dialect == "nginx" and url.path.removesuffix("?").endswith(("*", "%2A", "%2a")):
                unfit[target] = ValueError("it ends in *, and nginx would clear all that begins so")
                continue
            host = {"Host": url.host} if url.host else {}
            purges.append(Purge("PURGE", url.path, host | self._soft, targets=(target,)))
        return purges
