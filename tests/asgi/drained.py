"""An app for a server in a process of its own, whose effects tell a file what has become of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

import sidefx
from sidefx import RuntimeOptions, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Happened, until

_LOG = Path(os.environ["DRAINED_LOG"])
_DRAIN_TIMEOUT = float(os.environ.get("DRAINED_TIMEOUT", "20"))


def _tell(what: str) -> None:
    with _LOG.open("a", encoding="utf-8") as log:
        log.write(f"{what}\n")


async def _sink(event: Happened) -> None:
    if event.what == "hang":
        _tell("sink hangs")
        await anyio.sleep_forever()
    _tell(f"delivered {event.what}")


async def _other_sink(event: Happened) -> None:
    if event.what == "event":
        _tell("delivered by the other")


async def _until_drained(depth: int) -> None:
    """Goes on until the server has been told to stop, and schedules one more below it."""
    _tell(f"effect {depth} runs")
    await until(Path(f"{_LOG}.open").exists)
    if depth:
        after(_until_drained, depth - 1)
        after(Happened(what=f"nested {depth}"))
    _tell(f"effect {depth} done")


async def _hang() -> None:
    _tell("hangs")
    await anyio.sleep_forever()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        _tell("app stopped")
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hang":
        after(_hang, name="the one that hangs")
        after(Happened(what="hang"))
        after(Happened(what="event"))
    elif scope["path"] == "/slow":
        _tell("request open")
        await until(Path(f"{_LOG}.stop").exists)
        after(Happened(what="of the last request"))
    else:
        after(_until_drained, 2)
    assert sidefx.request() is not None
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


app = SideEffectsMiddleware(
    _app,
    effects=SideEffects({"sink": _sink, "other": _other_sink}, runtime=RuntimeOptions(drain_timeout=_DRAIN_TIMEOUT)),
)
