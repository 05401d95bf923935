"""Falcon: the adapter around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import falcon
import falcon.asgi

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script, chunks_then_bug


class Resource:
    """Answers with what it is handed."""

    def __init__(self, script: Script, answer: Callable[[Any], None]) -> None:
        self._script = script
        self._answer = answer

    async def on_get(self, req: Any, resp: Any, **_: Any) -> None:
        self._script.schedule()
        resp.text = "whole"
        self._answer(resp)

    on_post = on_get


class InAThread:
    """Does its work in a thread of the loop's executor, which has no context: `bind` carries the scope into it."""

    def __init__(self, script: Script, effects: SideEffects) -> None:
        self._script = script
        self._effects = effects

    async def on_get(self, req: Any, resp: Any) -> None:
        await falcon.sync_to_async(self._effects.bind(self._script.schedule))
        resp.text = "whole"


class Echo:
    """A websocket that sends back what it is told."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept()
        self._script.schedule()
        while True:
            await ws.send_text(self._script.heard(await ws.receive_text()))


class Silent:
    """Schedules nothing itself."""

    async def on_get(self, req: Any, resp: Any) -> None:
        resp.text = "whole"


class Hooks:
    """A middleware of Falcon's own."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def process_startup(self, scope: Any, event: Any) -> None:
        self._script.started()

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        self._script.stopped()

    async def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:
        if req.path == "/nested":
            self._script.schedule_nested()


async def events_without_end() -> AsyncIterator[falcon.asgi.SSEvent | None]:
    """A stream of Falcon's that ends when the client leaves: it looks between two events."""
    yield falcon.asgi.SSEvent(data=b"first")
    while True:
        await anyio.sleep(0.01)
        yield None  # a comment, to keep the connection alive


def _set(**values: Any) -> Callable[[Any], None]:
    def answer(resp: Any) -> None:
        for name, value in values.items():
            setattr(resp, name, value() if callable(value) else value)

    return answer


def _raise(error: Callable[[], Exception]) -> Callable[[Any], None]:
    def answer(resp: Any) -> None:
        raise error()

    return answer


def build(effects: SideEffects, script: Script) -> ASGIApp:
    """Resources for what it answers, and a middleware with hooks."""
    app = falcon.asgi.App(middleware=[Hooks(script)])
    answers = {
        "/ok": _set(),
        "/bad": _set(status=400),
        "/down": _set(status=500),
        "/http-exception": _raise(falcon.HTTPNotFound),
        "/boom": _raise(AppBug),
        "/redirect": _raise(lambda: falcon.HTTPTemporaryRedirect("/ok")),
        "/mid-stream": _set(text=None, stream=chunks_then_bug),
        "/leave": _set(text=None, sse=events_without_end),
        "/items/{item:int}": _set(status=201),
    }
    for path, answer in answers.items():
        app.add_route(path, Resource(script, answer))
    app.add_route("/sync", InAThread(script, effects))
    app.add_route("/nested", Silent())
    app.add_route("/chat", Echo(script))
    return SideEffectsMiddleware(app, effects=effects)


FALCON = {"falcon": Framework(build, unhandled_outcome="complete", raises_from_websockets=False)}
