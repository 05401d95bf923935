"""An app for a server in a process of its own, which tells a file what becomes of it and of its effects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from sidefx import RuntimeOptions, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Happened, eventually, until

_LOG = Path(os.environ["TOLD"])
_WORKERS = int(os.environ.get("WORKERS", "1"))
_WORK = float(os.environ.get("WORK", "0"))
"""Seconds that an effect takes, where it is to outlast what a server does by itself."""
_PID = os.getpid()


def _tell(what: str) -> None:
    with _LOG.open("a", encoding="utf-8") as log:
        log.write(f"{_PID} {what}\n")


def _allowed(what: str) -> bool:
    return Path(f"{_LOG}.{what}").exists()


async def _sink(event: Happened) -> None:
    if event.what == "hang":
        _tell("sink hangs")
        await anyio.sleep_forever()
    _tell(f"delivered {event.what}")


async def _other_sink(event: Happened) -> None:
    if event.what == "event":
        _tell("delivered by the other")


async def _until_allowed(depth: int) -> None:
    """Goes on until the server has been told to stop, and schedules one more below it."""
    _tell(f"effect {depth} runs")
    await until(lambda: _allowed("effects"))
    await anyio.sleep(_WORK)
    if depth:
        after(_until_allowed, depth - 1)
        after(Happened(what=f"nested {depth}"))
    _tell(f"effect {depth} done")


async def _hang() -> None:
    _tell("hangs")
    await anyio.sleep_forever()


async def _of_this_worker() -> None:
    await until(lambda: _allowed(f"{_PID}"))
    _tell("effect of this worker done")


def _keep_this_worker() -> None:
    """Blocks the event loop until each worker has a request: whoever has one takes no other."""
    _tell("busy")
    eventually(lambda: len({line for line in _LOG.read_text().splitlines() if line.endswith(" busy")}) == _WORKERS)


async def _stop_the_reactor() -> None:
    """Ends Daphne from the inside."""
    from twisted.internet import reactor

    reactor.callWhenRunning(lambda: (reactor.stop(), _tell("stopped the reactor")))  # type: ignore[attr-defined]


async def _never() -> None:
    """Has something to clear up when it is cancelled: for longer than it takes to drain what is there by then."""
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)


async def _schedule(path: str) -> None:
    if path == "/hang":
        after(_hang, name="the one that hangs")
        after(Happened(what="hang"))
        after(Happened(what="event"))
    elif path in {"/slow", "/stuck"}:
        after(Happened(what="of the open request"))
        _tell("request open")
        await (_never() if path == "/stuck" else until(lambda: _allowed("request")))
    elif path == "/worker":
        after(_of_this_worker)
        _keep_this_worker()
    else:
        after(_until_allowed, 2)
    if path == "/quit":
        after(_stop_the_reactor)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            _tell("started")
            await send({"type": "lifespan.startup.complete"})
        _tell("app stopped")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await _schedule(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


fx = SideEffects(
    {"sink": _sink, "other": _other_sink},
    runtime=RuntimeOptions(drain_timeout=float(os.environ.get("DRAIN_TIMEOUT", "20"))),
)
_adapter = SideEffectsMiddleware(_app, effects=fx)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells what the server says of its end before sidefx hears of it."""

    async def told() -> Any:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            _tell("shutting down")
            after(_tell, "draining")  # starts with the next turn of the event loop, by when sidefx waits for it
        return message

    await _adapter(scope, told if scope["type"] == "lifespan" else receive, send)
