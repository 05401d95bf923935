"""One side of a comparison: a server, and apps that are put on its stage for a request each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI

from sidefx import SideEffects, SinkOptions
from sidefx.asgi import ASGIApp
from tests.asgi.probe import PATIENCE
from tests.asgi.servers import Server, staged
from tests.asgi.wire import Reply

KIND = "uvicorn-h11"


class Side:
    """Asks an app, and waits for what follows its response: in the request's task there, in the runtime here."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def get(self, app: ASGIApp, path: str = "/", **options: Any) -> Reply:
        """The whole response; all that follows it has run."""
        reply, case = self.server.get(path, case=self.server.play(app), **options)
        self.over(case)
        return reply

    def over(self, case: str) -> None:
        """Waits until that request is over, and all effects there are have settled."""
        self.server.over(case)
        if self.server.fx.running:
            self.server.run(self.server.fx.flush, PATIENCE)

    def error(self, app: ASGIApp, path: str = "/") -> BaseException | None:
        """What the server is handed by the app, once all has run."""
        _, case = self.server.get(path, case=self.server.play(app))
        self.over(case)
        return self.server.over(case).error


def fastapi_app(endpoint: Any, **route: Any) -> FastAPI:
    """A FastAPI app with that one endpoint."""
    app = FastAPI()
    app.get("/", **route)(endpoint)
    return app


@contextmanager
def with_sinks(*sinks: Any, **options: SinkOptions) -> Iterator[Side]:
    """A server with the adapter and sinks of the test's own, by the name of the function or class."""
    named = {getattr(sink, "__name__", type(sink).__name__): sink for sink in sinks}
    with staged(KIND, lambda probe: SideEffects(named, options)) as server:
        yield Side(server)
