"""An app whose one effect writes down all that it knows of its request, for a server in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import sidefx
from sidefx import SideEffects, after
from sidefx.wsgi import SideEffectsMiddleware
from tests.wsgi.record import Record

record = Record(Path(os.environ["RECORD"]))


def _tell() -> None:
    request = sidefx.request()
    assert request is not None
    facts = request.model_dump(mode="json")
    seen = {
        "headers": {name: request.headers.getlist(name) for name in request.headers},
        "query": {name: request.query.getlist(name) for name in request.query},
        "cookies": dict(request.cookies),
    }
    record.note(json.dumps({**facts, **seen}))


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    after(_tell)
    start_response("201 Created", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"abc", b"def"]


app = SideEffectsMiddleware(_app, effects=SideEffects())
