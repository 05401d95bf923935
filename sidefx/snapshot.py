"""`RequestInfo`, made of what an adapter was told by its server."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from sidefx.events import uuid7
from sidefx.request import Client, Fields, RequestInfo, sane_request_id, sane_traceparent
from sidefx.tracing import traceparent_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidefx.request import Headers

_USER_AGENT_CHARACTERS = 512


def snapshot_of(
    *, method: str, path: str, route: str | None, client: Sequence[Any] | None, query: str, headers: Headers
) -> RequestInfo:
    """The facts of a request; `client` is the peer's address, with or without a port, and `query` is not decoded."""
    agent = headers.get("user-agent")
    return RequestInfo._of(  # noqa: SLF001 - ours, and not for users
        request_id=sane_request_id(headers.get("x-request-id")) or str(uuid7()),
        method=method,
        path=path,
        route=route,
        client=_client(client),
        user_agent=None if agent is None else agent[:_USER_AGENT_CHARACTERS],
        traceparent=traceparent_here() or sane_traceparent(headers.get("traceparent")),
        query=Fields(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        cookies=MappingProxyType(_cookies(headers)),
    )


def _client(address: Sequence[Any] | None) -> Client | None:
    """The peer; a specification may have the port as a number, and a server write it as a string all the same."""
    if not address:
        return None
    port = str(address[1]) if len(address) > 1 else ""
    return Client(str(address[0]), int(port) if port.isdecimal() else None)


def _cookies(headers: Headers) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            name, separator, value = pair.strip().partition("=")
            if separator:
                cookies[name.strip()] = _unquoted(value.strip())
    return cookies


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return SimpleCookie(f"value={value}")["value"].value
    except (CookieError, KeyError):
        return value
