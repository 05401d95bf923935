"""Real servers on real sockets, each in a thread of its own, so that tests see into the app's process."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
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

from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp, ASGIScope, Message, Receive, Send, SideEffectsMiddleware
from tests.asgi.peer import Http2Peer, Peer
from tests.asgi.probe import PATIENCE, Gate, Probe, eventually, until
from tests.asgi.wire import Reply, Wire
from tests.asgi.wire_http2 import Http2Wire
from tests.asgi.witness import Sight, Witness, case_of

UVICORN = ("uvicorn-h11", "uvicorn-httptools")
HTTP1 = (*UVICORN, "hypercorn-asyncio", "hypercorn-trio", "granian", "daphne")
HTTP2 = ("hypercorn-asyncio-http2", "hypercorn-trio-http2")
SERVERS = (*HTTP1, *HTTP2)
"""Every server that the contract names."""
WITH_LIFESPAN = tuple(kind for kind in SERVERS if kind != "daphne")
"""Those that tell an app of their start and their end."""

_numbers = itertools.count(1)


def _never() -> None:
    """A server that ends with the process."""
    raise NotImplementedError


class Stage:
    """An app whose every request is served by the function that the test has put there for it."""

    def __init__(self) -> None:
        self.plays: dict[str, ASGIApp] = {}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.plays[case_of(scope)](scope, receive, send)
            return
        await lifespan(receive, send)


@dataclass
class Server:
    """A server that runs, what its app notes, and clients for it."""

    kind: str
    port: int
    witness: Witness
    stop: Callable[[], object] = _never
    probe: Probe = field(default_factory=Probe)
    fx: SideEffects = field(default_factory=SideEffects)
    stage: Stage = field(default_factory=Stage)
    token: anyio.lowlevel.EventLoopToken | None = None

    def wire(self) -> Wire:
        """A connection."""
        wire: Any = Http2Wire if self.kind in HTTP2 else Wire  # which has the same methods, but for `half_close`
        return wire(self.port)  # type: ignore[no-any-return]

    def dial(self, case: str) -> Peer:
        """A websocket, whose handshake is on the way; whether it is accepted is the app's to say."""
        return (Http2Peer if self.kind in HTTP2 else Peer)(self.port, case)

    def play(self, app: ASGIApp) -> str:
        """Puts the app on stage for one request, and returns that request's id."""
        case = f"case-{next(_numbers)}"
        self.stage.plays[case] = app
        return case

    def get(
        self,
        path: str = "/",
        *,
        case: str | None = None,
        method: str = "GET",
        body: bytes = b"",
        **headers: str | tuple[str, ...],
    ) -> tuple[Reply, str]:
        """A whole response on a connection of its own, and the request's id."""
        case = case or f"case-{next(_numbers)}"
        with self.wire() as wire:
            wire.ask(case, path, method, body, **headers)
            return wire.reply(), case

    def scheduled(self, *effects: Any) -> str:
        """A request that schedules them, answered: its id."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for effect in effects:
                after(effect)
            await whole(scope, receive, send)

        reply, case = self.get(case=self.play(app))
        assert reply.status == 200
        return case

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
    witness = Witness(app)
    if kind == "daphne":
        from tests.asgi import daphne_server  # installs Twisted's reactor, for good

        with daphne_server.listening(witness, **options) as daphne:
            yield Server(kind, daphne.port, witness, token=daphne.token)
        return
    launch = _launch(kind, witness, options)
    tells = options.get("lifespan") != "off" and options.get("interface") != Interfaces.ASGINL
    with _running(kind, launch, witness, fails=fails, lifespan=tells) as token:
        yield Server(kind, launch.port, witness, launch.stop, token=token)


@contextmanager
def staged(kind: str, make: Callable[[Probe], SideEffects] | None = None, **options: Any) -> Iterator[Server]:
    """Runs a `Stage` under the adapter."""
    probe, stage = Probe(), Stage()
    fx = make(probe) if make is not None else SideEffects({"sink": probe.sink}, name="stage")
    with serving(kind, SideEffectsMiddleware(stage, effects=fx), **options) as server:
        server.probe, server.stage, server.fx = probe, stage, fx
        if kind not in WITH_LIFESPAN:
            _overlap(server)
        yield server


def _overlap(server: Server) -> None:
    """Has two requests at a time: that shows an adapter without lifespan that it need not keep any for its effects."""
    with Gate() as gate:

        async def app(scope: ASGIScope, receive: Receive, send: Send) -> None:
            after(gate.passed)
            await whole(scope, receive, send)

        _, first = server.get(case=server.play(app))
        gate.reached()
        server.get(case=server.play(whole))
        server.over(first)
    server.settled(first)


@dataclass
class _Launch:
    """How a server is run on an event loop of its own."""

    port: int
    main: Callable[[], Awaitable[Any]]
    stop: Callable[[], object]
    backend: str = "asyncio"


def _launch(kind: str, witness: Witness, options: Mapping[str, Any]) -> _Launch:
    # the protocol is named, as servers name it: asyncio sends without delay on those sockets alone
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port = listener.getsockname()[1]
    family, _, variant = kind.partition("-")
    if family == "uvicorn":
        config = uvicorn.Config(witness, http=variant, ws="wsproto", loop="asyncio", log_config=None, **options)
        server = uvicorn.Server(config)
        return _Launch(port, lambda: _uvicorn(server, listener), lambda: setattr(server, "should_exit", True))
    if family == "hypercorn":
        backend = variant.partition("-")[0]
        serve: Any = hypercorn.asyncio.serve if backend == "asyncio" else hypercorn.trio.serve
        defaults = {"bind": [f"fd://{listener.detach()}"], "graceful_timeout": 1.0, "errorlog": None}
        settings = hypercorn.Config.from_mapping({**defaults, **options})
        done = threading.Event()
        trigger = partial(until, done.is_set)
        return _Launch(port, lambda: serve(witness, settings, shutdown_trigger=trigger, mode="asgi"), done.set, backend)
    listener.close()  # Granian binds by itself
    return _granian(port, witness, options)


async def _uvicorn(server: uvicorn.Server, listener: socket.socket) -> None:
    with listener:
        await server.serve(sockets=[listener])


def _granian(port: int, witness: Witness, options: Mapping[str, Any]) -> _Launch:
    stops: list[Callable[[], object]] = []

    async def main() -> None:
        server = Granian(witness, port=port, log_enabled=False, **{"interface": Interfaces.ASGI, **options})
        stops.append(partial(asyncio.get_running_loop().call_soon_threadsafe, server.stop))
        await server.serve()

    def stop() -> None:
        with suppress(RuntimeError):  # its loop has been closed: it has stopped
            stops[0]()

    return _Launch(port, main, stop)


@contextmanager
def _running(
    kind: str, launch: _Launch, witness: Witness, *, fails: bool, lifespan: bool
) -> Iterator[anyio.lowlevel.EventLoopToken | None]:
    ready = threading.Event()
    failure: list[BaseException] = []
    tokens: list[anyio.lowlevel.EventLoopToken] = []

    async def run() -> None:
        tokens.append(anyio.lowlevel.current_token())
        ready.set()
        await launch.main()

    def thread() -> None:
        try:
            anyio.run(run, backend=launch.backend)
        except BaseException as error:  # noqa: BLE001 - raised where the test sees it
            failure.append(error)
            ready.set()

    running = threading.Thread(target=thread, name=kind, daemon=True)
    running.start()
    try:
        assert ready.wait(PATIENCE)
        eventually(lambda: not lifespan or witness.lifespan or failure or not running.is_alive())
        if kind == "granian":  # the others have their listening socket from us
            eventually(lambda: _answers(launch.port) or failure or not running.is_alive())
        yield tokens[0] if tokens else None
    finally:
        if running.is_alive():
            launch.stop()
        running.join(PATIENCE)
    assert not running.is_alive(), f"{kind} did not stop"
    assert fails or not failure, "".join(traceback.format_exception(failure[0]))


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def start(status: int = 200, *headers: tuple[str, str], **extra: Any) -> Message:
    """The message that starts a response."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": encoded, **extra}


def body(data: bytes = b"", **extra: Any) -> Message:
    """A message with a part of the body; the last one unless `more_body=True`."""
    return {"type": "http.response.body", "body": data, **extra}


async def lifespan(receive: Receive, send: Send) -> None:
    """That of an app which has nothing to start and nothing to end."""
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def whole(scope: ASGIScope, receive: Receive, send: Send) -> None:
    """The app of a whole response: `ok`."""
    await send(start(200, ("content-length", "2")))
    await send(body(b"ok"))
