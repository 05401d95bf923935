"""An app with a journaled sink and one in memory, for servers that are stopped or killed and started again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from sidefx import Event, JournalOptions, RuntimeOptions, SideEffects, SinkOptions, after
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Happened, until

_LOG = Path(os.environ["TOLD"])
_HANGS = "HANG" in os.environ
"""Whether no sink gets anything done in this run."""


class Durable(Event, kind="durable_test.durable"):
    """What is journaled; `Happened` is not."""

    what: str


def _tell(what: str) -> None:
    with _LOG.open("a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {what}\n")


async def _deliver(sink: str, event: Durable | Happened) -> None:
    if _HANGS:
        _tell(f"{sink} hangs")
        await anyio.sleep_forever()
    request = event.request
    assert request is not None
    _tell(f"delivered {event.what}: {request.method} {request.path} {request.request_id} {request.status}")


async def _journaled(event: Durable) -> None:
    await _deliver("journaled", event)


async def _memory(event: Happened) -> None:
    await _deliver("memory", event)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """`/` answers at once; other paths stream until they are allowed to go on, and `/raise` fails then."""
    path = scope["path"]
    if path == "/":
        for number in (1, 2):
            after(Durable(what=f"durable {number}"))
            after(Happened(what=f"fleeting {number}"))
    else:
        after(Durable(what="success"), when="success")
        after(Durable(what="error"), when="error")
        after(Durable(what="always"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    # some servers keep the head back until there is something of the body
    await send({"type": "http.response.body", "body": b"begun", "more_body": path != "/"})
    if path != "/":
        await until(lambda: Path(f"{_LOG}.response").exists())
        if path == "/raise":
            msg = "after the start"
            raise RuntimeError(msg)
        await send({"type": "http.response.body"})


app = SideEffectsMiddleware(
    _app,
    effects=SideEffects(
        {"journaled": _journaled, "memory": _memory},
        {
            "journaled": SinkOptions(events=(Durable.kind,), delivery="journal"),
            "memory": SinkOptions(events=(Happened.kind,)),
        },
        journal=JournalOptions(path=_LOG.parent / "journal"),
        runtime=RuntimeOptions(drain_timeout=float(os.environ.get("DRAIN_TIMEOUT", "20"))),
    ),
)
