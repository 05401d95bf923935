"""`RequestInfo`, made of what a server and a framework leave in the ASGI scope."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from sidefx.events import uuid7
from sidefx.request import Client, Fields, Headers, RequestInfo, sane_request_id, sane_traceparent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidefx.asgi.protocol import ASGIScope

_USER_AGENT_CHARACTERS = 512


def request_info(scope: ASGIScope, path: str, root_path: str) -> RequestInfo:
    """The facts of the request; `path` and `root_path` as they were before any framework changed them."""
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    agent = headers.get("user-agent")
    return RequestInfo.model_construct(
        request_id=sane_request_id(headers.get("x-request-id")) or str(uuid7()),
        method=scope.get("method", ""),
        path=path,
        route=route_of(scope, root_path),
        client=_client(scope.get("client")),
        user_agent=None if agent is None else agent[:_USER_AGENT_CHARACTERS],
        traceparent=sane_traceparent(headers.get("traceparent")),
        query=Fields(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)),
        headers=headers,
        cookies=MappingProxyType(_cookies(headers)),
    )


def route_of(scope: ASGIScope, root_path: str) -> str | None:
    """The route's template, under the mounts that the request went through.

    FastAPI and Starlette leave the route in the scope, Litestar its template; others leave nothing.
    """
    route = scope.get("route")
    template = getattr(route, "path", None) or scope.get("path_template")
    if not isinstance(template, str):
        return None
    if hasattr(route, "routes"):  # a mount, and what is mounted leaves no route of its own
        template = ""
    mounts = scope.get("root_path", "").removeprefix(root_path)
    return _with_placeholders(mounts, scope.get("path_params") or {}, template) + template


def _with_placeholders(mounts: str, parameters: Mapping[str, Any], template: str) -> str:
    """The path of the mounts, in which the values of parameters that are not the template's give way to their names."""
    segments = mounts.split("/")
    for name, value in parameters.items():
        if f"{{{name}}}" in template or f"{{{name}:" in template:
            continue
        if (text := str(value)) in segments:
            segments[segments.index(text)] = f"{{{name}}}"
    return "/".join(segments)


def _client(address: Sequence[Any] | None) -> Client | None:
    """The peer; the specification has the port as a number, Granian writes it as a string."""
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
