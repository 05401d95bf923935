"""Daphne in this process.

Twisted's reactor runs once in a process, so that one runs in a thread of its own until the process ends, and
each server is a set of listeners on it. Everything of Twisted is imported here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio.lowlevel
import daphne.server

from sidefx import scope
from sidefx.asgi import ASGIApp


class Running(NamedTuple):
    """A Daphne that listens."""

    port: int
    token: anyio.lowlevel.EventLoopToken
    """Of the reactor's event loop."""


@functools.cache
def _reactor() -> Any:
    """Twisted's reactor, on an asyncio event loop, running."""
    reactor: Any = daphne.server.reactor
    started = threading.Event()
    reactor.callWhenRunning(started.set)
    thread = threading.Thread(target=reactor.run, args=(False,), name="daphne", daemon=True)  # no signal handlers
    thread.start()
    started.wait()
    return reactor


def _call(function: Callable[..., Any], *args: Any) -> Any:
    """Calls an asynchronous function on the reactor's event loop, and returns or raises what it does."""
    return asyncio.run_coroutine_threadsafe(function(*args), _reactor()._asyncioEventloop).result()


@contextmanager
def listening(app: ASGIApp, **options: Any) -> Iterator[Running]:
    """Serves the app on a port of its own, with Daphne's own options."""
    server = daphne.server.Server(app, endpoints=["tcp:0:interface=127.0.0.1"], **options)
    server.abort_start = True  # its run() is to listen, and to leave the reactor alone
    running = _call(_start, server)
    try:
        yield running
    finally:
        _call(_stop, server)


async def _start(server: Any) -> Running:
    server.run()
    ((_, port),) = server.listening_addresses
    return Running(port, anyio.lowlevel.current_token())


async def _stop(server: Any) -> None:
    """What the reactor's own end would do, and what only the end of the process would."""
    reactor = _reactor()
    readers = reactor.getReaders()
    ports = [reader for reader in readers if getattr(reader, "factory", None) is server.http_factory]
    for port in ports:
        await port.stopListening().asFuture(asyncio.get_running_loop())
    for reader in readers:
        if getattr(reader, "server", None) in ports:
            reader.abortConnection()
    await _end_applications(server)
    for call in reactor.getDelayedCalls():
        if call.func in {server.application_checker, server.timeout_checker}:
            call.cancel()
    reactor.removeSystemEventTrigger(("shutdown", ("before", server.kill_all_applications, (), {})))
    runtimes: Any = tuple(scope._running)
    for runtime in runtimes:  # requests have started them, and this event loop goes on
        if runtime.here:
            await runtime.stop()


async def _end_applications(server: Any) -> None:
    applications = [details.get("application_instance") for details in server.connections.values()]
    running = [application for application in applications if application is not None]
    for application in running:
        application.cancel()
    for error in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(error, Exception):
            daphne.server.logger.error("Exception inside application: %s", error, exc_info=error)
