"""Two mounted apps with a runtime each, for a server in a process of its own; one of them may hang."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from sidefx import RuntimeOptions, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Happened, until

_LOG = Path(os.environ["TOLD"])


def _tell(what: str) -> None:
    with _LOG.open("a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {what}\n")


class _Sink:
    """Tells what it is given, and when it is closed; hangs on being asked to."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        _tell(f"{self._name} closed")

    async def send(self, event: Happened) -> None:
        _tell(f"{self._name} was given {event.what}")
        if event.what == "hang":
            await anyio.sleep_forever()


async def _until_allowed(name: str) -> None:
    await until(Path(f"{_LOG}.effects").exists)
    after(Happened(what="nested"))
    _tell(f"effect of {name} done")


async def _hang(request: Any) -> PlainTextResponse:
    after(Happened(what="hang"))
    return PlainTextResponse("ok")


async def _work(request: Any) -> PlainTextResponse:
    after(_until_allowed, request.scope["root_path"][1:])
    return PlainTextResponse("ok")


_runtimes = {
    name: SideEffects({name: _Sink(name)}, name=name, runtime=RuntimeOptions(drain_timeout=seconds))
    for name, seconds in (("one", 1.0), ("two", 1.0))
}


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[None]:
    async with _runtimes["one"], _runtimes["two"]:
        yield
        _tell("shutting down")
    _tell("app stopped")


def _mounted(name: str) -> Mount:
    app = Starlette(routes=[Route("/hang", _hang), Route("/work", _work)])
    return Mount(f"/{name}", app=SideEffectsMiddleware(app, effects=_runtimes[name]))


app = Starlette(routes=[_mounted("one"), _mounted("two")], lifespan=_lifespan)
