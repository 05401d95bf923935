"""`Snapshot`: what a server and a framework leave in the WSGI environ of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidefx.request import Headers
from sidefx.snapshot import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIEnvironment

    from sidefx.request import RequestInfo


class Snapshot:
    """The facts of one request, for whoever asks for them first: the app, or an effect long afterwards.

    It refers to nothing of the response, so that no cycle keeps what a server has for a request from being freed.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._script_name: str = environ.get("SCRIPT_NAME", "")
        path: str = self._script_name + environ.get("PATH_INFO", "")
        self.method: str = environ.get("REQUEST_METHOD", "")
        self.path = path.encode("latin-1", "replace").decode("utf-8", "replace")  # the bytes come as latin-1
        self._route: str | None = None
        self._response: dict[str, Any] | None = None

    def find_route(self) -> None:
        """Looks for the route's template while the framework works on the request; afterwards it may be gone.

        Flask leaves its request in the environ, and with it the rule; any other app may put a `path_template`
        there. Before it stand the mounts that the request went through.
        """
        rule = getattr(self._environ.get("werkzeug.request"), "url_rule", None)
        template = getattr(rule, "rule", None) or self._environ.get("path_template")
        if isinstance(template, str):
            mounts: str = self._environ.get("SCRIPT_NAME", "")
            self._route = mounts.removeprefix(self._script_name) + template

    def end(self, **response: Any) -> None:
        """The response is over, and this has become of it: the server's objects in the environ are let go of."""
        self._response = response
        self._environ = {name: value for name, value in self._environ.items() if isinstance(value, str)}

    def complete(self, request: RequestInfo) -> None:
        """Tells the request what has become of the response."""
        assert self._response is not None  # noqa: S101 - end() was called
        request._complete(route=self._route, **self._response)  # noqa: SLF001 - the one place that may

    def request_info(self) -> RequestInfo:
        """The request; with the end of the response, where that is over."""
        self.find_route()
        environ = self._environ
        host = environ.get("REMOTE_ADDR")
        info = snapshot_of(
            method=self.method,
            path=self.path,
            route=self._route,
            client=(host, environ.get("REMOTE_PORT", "")) if host else None,
            query=environ.get("QUERY_STRING", ""),
            headers=Headers(_headers(environ)),
        )
        if self._response is not None:
            self.complete(info)
        return info


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name[5:].replace("_", "-").lower(), value
        elif name in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value:
            yield name.replace("_", "-").lower(), value
