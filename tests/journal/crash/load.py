"""Clients that keep asking, and remember of which events they have read the whole response."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from itertools import count
from typing import Self

from tests.asgi.wire import Wire

_THINKING = 0.02
"""Seconds between a response and the next request on the same connection."""


class Load:
    """Asks the servers at these ports, in turn, for `path`, over so many connections at a time, until it is left."""

    def __init__(self, ports: Callable[[], list[int]], path: str, clients: int) -> None:
        self._ports = ports
        self._path = path
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        self._over = threading.Event()
        self.seen: dict[str, set[str]] = {}
        """The ids of events whose response was read to its end, by kind."""
        self.requests = 0
        self.broken = 0
        """Connections and responses that ended before their end."""
        self.wrong: list[str] = []
        """Responses other than 200."""
        self._adding = threading.Lock()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        for turn in count(number):
            if self._over.is_set():
                return
            ports = self._ports()
            try:
                with Wire(ports[turn % len(ports)]) as wire:
                    self._keep_asking(wire)
            except (OSError, AssertionError, StopIteration):  # refused, reset, or ended in the middle
                self.broken += 1
                time.sleep(_THINKING)

    def _keep_asking(self, wire: Wire) -> None:
        while not self._over.wait(_THINKING):
            wire.ask("load", self._path)
            reply = wire.reply()
            if reply.status != HTTPStatus.OK:
                self.wrong.append(f"{reply.status} {reply.body!r}")
                continue
            self._remember(reply.body)

    def _remember(self, body: bytes) -> None:
        with self._adding:
            self.requests += 1
            for kind, id_ in events_of(body):
                self.seen.setdefault(kind, set()).add(id_)


def events_of(body: bytes) -> list[tuple[str, str]]:
    """The kinds and ids of the events that the app has made for this response."""
    _, *lines = body.decode().splitlines()
    return [(kind, id_) for kind, id_ in (line.split() for line in lines)]
