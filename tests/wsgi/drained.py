"""An app for a server in a process of its own, whose effects take as long as the test wants."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from wsgiref.types import StartResponse, WSGIEnvironment

import anyio

import sidefx.process
from sidefx import RuntimeOptions, SideEffects, after
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import until
from tests.wsgi.record import Noted, Record

record = Record(Path(os.environ["RECORD"]))


def _allowed(what: str) -> bool:
    return Path(f"{record.path}.{what}").exists()


class Sink:
    """Opens once the test lets it, and hangs where it is told to."""

    async def __aenter__(self) -> None:
        record.note("sink opens")
        if _allowed("failure"):
            raise ConnectionRefusedError("nobody is there")

    async def __aexit__(self, *_: object) -> None:
        record.note("sink closed")

    async def send(self, event: Noted) -> None:
        """Of what is to hang, the first."""
        if event.what == "hang":
            record.note_for(event, "sink hangs")
            await anyio.sleep_forever()
        record.note_for(event, f"delivered {event.what}")


async def _other_sink(event: Noted) -> None:
    record.note_for(event, f"delivered {event.what} by the other")


async def _until_allowed(depth: int) -> None:
    record.note(f"effect {depth} runs")
    await until(lambda: _allowed("effects"))
    if depth:
        after(_until_allowed, depth - 1)
        after(Noted(what=f"nested {depth}"))
    record.note(f"effect {depth} done")


def _until_allowed_in_a_thread() -> None:
    record.note("blocks")
    while not _allowed("effects"):
        time.sleep(0.002)
    record.note("does not block any more")


async def _hang() -> None:
    record.note("hangs")
    await anyio.sleep_forever()


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/hang":
        after(_hang, name="the one that hangs")
        after(Noted(what="hang"))
        after(Noted(what="event"))
    elif path == "/block":
        after(_until_allowed_in_a_thread)
        after(Noted(what="event"))
    elif path == "/slow":
        after(Noted(what="of the open request"))
        record.note("request open")
        while not _allowed("requests"):
            time.sleep(0.002)
    elif path == "/nested":
        after(_until_allowed, 2)
    pieces = [str(os.getpid()).encode(), b" answers"]
    length = str(sum(map(len, pieces)))
    start_response("200 OK", [("Content-Length", length)] if environ["QUERY_STRING"] == "length" else [])
    yield from pieces


fx = SideEffects(
    {"sink": Sink(), "other": _other_sink},
    runtime=RuntimeOptions(drain_timeout=float(os.environ.get("DRAIN_TIMEOUT", "20"))),
)
app = SideEffectsMiddleware(_app, effects=fx)


def _tell_of_the_end() -> None:
    while True:
        try:
            record.note("the process ends")
        except SystemExit:  # a second signal
            continue
        return


# after the hook of sidefx itself, so that it is called before: the test knows that a drain has begun
threading._register_atexit(_tell_of_the_end)  # type: ignore[attr-defined]  # there is no public one


def _telling(handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], object]:
    def told(number: int, frame: FrameType | None) -> None:
        files = {entry.f_code.co_filename for entry, _ in traceback.walk_stack(frame)}
        try:
            handler(number, frame)
        finally:
            record.note("told while it drains" if sidefx.process.__file__ in files else "told")

    return told


if "TELL_SIGNALS" in os.environ:
    for number in (signal.SIGTERM, signal.SIGQUIT):
        if callable(handler := signal.getsignal(number)):
            signal.signal(number, _telling(handler))
