"""Real servers on real sockets, each in a thread of its own, so that tests see into the app's process."""

from __future__ import annotations

import itertools
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import hypercorn
import hypercorn.asyncio
import hypercorn.trio
import uvicorn
from granian.constants import Interfaces
from granian.server.embed import Server as Granian

import sidefx
from sidefx import SideEffects
from sidefx.asgi import ASGIApp, ASGIScope, Message, Receive, Send, SideEffectsMiddleware
from tests.asgi.probe import PATIENCE, Probe, eventually, until
from tests.asgi.wire import Reply, Wire

UVICORN = ("uvicorn-h11", "uvicorn-httptools")
SERVERS = (*UVICORN, "hypercorn-asyncio", "hypercorn-trio", "granian")

_numbers = itertools.count(1)


@dataclass
class Sight:
    """What a `Witness` saw of one request."""

    receives: int = 0
    sent: list[Message] = field(default_factory=list)
    error: BaseException | None = None
    request_before: object = None
    request_after: object = None


class Witness:
    """Stands outside of the adapter: sees what it passes on, and when a request is over."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.over: dict[str, Sight] = {}
        self.lifespan: list[str] = []
        """What the adapter has told the server."""
        self.told: list[str] = []
        """What the server has told the adapter, from outside of requests."""

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        sight = Sight(request_before=sidefx.request())

        async def seen_receive() -> Message:
            sight.receives += 1
            message = await receive()
            if scope["type"] == "lifespan":
                self.told.append(message["type"])
            return message

        async def seen_send(message: Message) -> None:
            if scope["type"] == "lifespan":
                self.lifespan.append(message["type"])
            sight.sent.append(message)
            await send(message)

        try:
            await self.app(scope, seen_receive, seen_send)
        except BaseException as error:
            sight.error = error
            raise
        finally:
            sight.request_after = sidefx.request()
            if scope["type"] != "lifespan":
                self.over[case_of(scope)] = sight


def case_of(scope: ASGIScope) -> str:
    """The `X-Request-ID` of a connection."""
    return str(dict(scope["headers"])[b"x-request-id"].decode())


class Stage:
    """An app whose every request is served by the function that the test has put there for it."""

    def __init__(self) -> None:
        self.plays: dict[str, ASGIApp] = {}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.plays[case_of(scope)](scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})


@dataclass
class Server:
    """A server that runs, what its app notes, and clients for it."""

    kind: str
    port: int
    witness: Witness
    stop: Callable[[], object]
    probe: Probe = field(default_factory=Probe)
    fx: SideEffects = field(default_factory=SideEffects)
    stage: Stage = field(default_factory=Stage)
    token: anyio.lowlevel.EventLoopToken | None = None

    def wire(self) -> Wire:
        """A connection."""
        return Wire(self.port)

    def play(self, app: ASGIApp) -> str:
        """Puts the app on stage for one request, and returns that request's id."""
        case = f"case-{next(_numbers)}"
        self.stage.plays[case] = app
        return case

    def get(
        self, path: str = "/", *, case: str | None = None, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[Reply, str]:
        """A whole response on a connection of its own, and the request's id."""
        case = case or f"case-{next(_numbers)}"
        with self.wire() as wire:
            wire.ask(case, path, method, body, **headers)
            return wire.reply(method), case

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls an asynchronous function on the server's event loop."""
        assert self.token is not None
        return anyio.from_thread.run(function, *args, token=self.token)

    def over(self, case: str) -> Sight:
        """Waits until the app has returned or raised for that request, and says what was seen."""
        return eventually(lambda: self.witness.over.get(case), f"the end of {case}")

    def settled(self, case: str) -> list[Any]:
        """Waits until that request is over and everything that is due has run; what its effects have noted."""
        self.over(case)
        self.run(self.fx.flush, PATIENCE)
        return self.probe.of(case)


@contextmanager
def serving(kind: str, app: ASGIApp, *, fails: bool = False, **options: Any) -> Iterator[Server]:
    """Runs any app on that server, with the server's own options; `fails` where it is not to get anywhere."""
    ready = threading.Event()
    failure: list[BaseException] = []
    witness = Witness(app)
    listener = socket.create_server(("127.0.0.1", 0))
    server, main, backend = _prepare(kind, witness, listener, options)

    async def run() -> None:
        server.token = anyio.lowlevel.current_token()
        ready.set()
        await main()

    def thread() -> None:
        try:
            anyio.run(run, backend=backend)
        except BaseException as error:  # noqa: BLE001 - raised where the test sees it
            failure.append(error)
            ready.set()

    running = threading.Thread(target=thread, name=kind, daemon=True)
    running.start()
    try:
        assert ready.wait(PATIENCE)
        eventually(lambda: witness.lifespan or failure or not running.is_alive() or options.get("lifespan") == "off")
        if kind == "granian":  # the others have their listening socket from us
            eventually(lambda: _answers(server.port) or failure or not running.is_alive())
        yield server
    finally:
        if running.is_alive():
            server.stop()
        running.join(PATIENCE)
        listener.close()
    assert not running.is_alive(), f"{kind} did not stop"
    assert fails or not failure, "".join(traceback.format_exception(failure[0]))


@contextmanager
def staged(kind: str, make: Callable[[Probe], SideEffects] | None = None, **options: Any) -> Iterator[Server]:
    """Runs a `Stage` under the adapter."""
    probe, stage = Probe(), Stage()
    fx = make(probe) if make is not None else SideEffects({"sink": probe.sink}, name="stage")
    with serving(kind, SideEffectsMiddleware(stage, effects=fx), **options) as server:
        server.probe, server.stage, server.fx = probe, stage, fx
        yield server


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _prepare(
    kind: str, witness: Witness, listener: socket.socket, options: Mapping[str, Any]
) -> tuple[Server, Callable[[], Any], str]:
    family, _, variant = kind.partition("-")
    port = listener.getsockname()[1]
    if family == "uvicorn":
        config = uvicorn.Config(witness, http=variant, ws="wsproto", loop="asyncio", log_config=None, **options)
        uvicorn_server = uvicorn.Server(config)
        server = Server(kind, port, witness, lambda: setattr(uvicorn_server, "should_exit", True))
        return server, lambda: uvicorn_server.serve(sockets=[listener]), "asyncio"
    if family == "hypercorn":
        settings = hypercorn.Config.from_mapping(
            bind=[f"fd://{listener.detach()}"], graceful_timeout=1.0, errorlog=None, **options
        )
        done = threading.Event()

        serve: Any = hypercorn.asyncio.serve if variant == "asyncio" else hypercorn.trio.serve
        server = Server(kind, port, witness, done.set)
        return (
            server,
            lambda: serve(witness, settings, shutdown_trigger=partial(until, done.is_set), mode="asgi"),
            variant,
        )
    listener.close()  # Granian binds by itself
    servers: list[Granian] = []

    async def serve_granian() -> None:
        servers.append(Granian(witness, port=port, interface=Interfaces.ASGI, log_enabled=False, **options))
        await servers[0].serve()

    def stop() -> None:
        assert server.token is not None
        with suppress(RuntimeError):  # its loop has been closed: it has stopped
            server.token.native_token.call_soon_threadsafe(servers[0].stop)  # type: ignore[attr-defined]  # asyncio's

    server = Server(kind, port, witness, stop)
    return server, serve_granian, "asyncio"


def start(status: int = 200, *headers: tuple[str, str], **extra: Any) -> Message:
    """The message that starts a response."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": encoded, **extra}


def body(data: bytes = b"", **extra: Any) -> Message:
    """A message with a part of the body; the last one unless `more_body=True`."""
    return {"type": "http.response.body", "body": data, **extra}


async def whole(scope: ASGIScope, receive: Receive, send: Send) -> None:
    """The app of a whole response: `ok`."""
    await send(start(200, ("content-length", "2")))
    await send(body(b"ok"))
