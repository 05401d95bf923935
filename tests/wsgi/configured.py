"""An app that is configured by a file, for a server in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from sidefx.wsgi import SideEffectsMiddleware


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


app = SideEffectsMiddleware(_app)
