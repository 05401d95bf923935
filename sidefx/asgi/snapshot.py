"""`RequestInfo`, made of what a server and a framework leave in the ASGI scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidefx.request import Headers
from sidefx.snapshot import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidefx.asgi.protocol import ASGIScope
    from sidefx.request import RequestInfo


def request_info(scope: ASGIScope, path: str, root_path: str) -> RequestInfo:
    """The facts of the request; `path` and `root_path` as they were before any framework changed them."""
    return snapshot_of(
        method=scope.get("method", ""),
        path=path,
        route=route_of(scope, root_path),
        client=scope.get("client"),
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
    )


def route_of(scope: ASGIScope, root_path: str) -> str | None:
    """The route's template, under the mounts that the request went through.

    FastAPI and Starlette leave the route in the scope, Litestar its template; others leave nothing, and an app
    may put the template there itself.
    """
    route, template = scope.get("route"), scope.get("path_template")
    if hasattr(route, "routes"):  # a mount, and what is mounted leaves no route, but may leave a template
        template = template or ""
    elif path := getattr(route, "path", None):
        template = path
    if not isinstance(template, str):
        return None
    mounts = scope.get("root_path", "").removeprefix(root_path)
    return _with_placeholders(mounts, scope.get("path_params") or {}, template) + template or None


def _with_placeholders(mounts: str, parameters: Mapping[str, Any], template: str) -> str:
    """The path of the mounts, in which the values of parameters that are not the template's give way to their names."""
    segments = mounts.split("/")
    for name, value in parameters.items():
        if f"{{{name}}}" in template or f"{{{name}:" in template:
            continue
        if (text := str(value)) in segments:
            segments[segments.index(text)] = f"{{{name}}}"
    return "/".join(segments)
