"""uvicorn as a block of code: it serves while the block lasts."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sidefx.asgi import ASGIApp

_HOST = "127.0.0.1"
_GRACE_SECONDS = 2


class _Server(uvicorn.Server):
    """Leaves signals alone, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket, *, lifespan: bool = False) -> AsyncIterator[None]:
    """Serves the app on the socket; on leaving, requests are finished, then its lifespan ends."""
    config = uvicorn.Config(
        app,
        lifespan="on" if lifespan else "off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        await server.ready.wait()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - goes on below: the task group would make a group of it
            failure = error
        finally:
            server.should_exit = True
    if failure is not None:
        raise failure


def listen(port: int = 0) -> socket.socket:
    """A socket on the loopback interface alone; port 0 takes any that is free.

    Raises:
        OSError: the port is taken.
    """
    # Named, not 0: asyncio turns Nagle's algorithm off only for what says that it is TCP, else answers wait for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def address(listener: socket.socket) -> str:
    """`127.0.0.1:PORT`."""
    return f"{_HOST}:{listener.getsockname()[1]}"
