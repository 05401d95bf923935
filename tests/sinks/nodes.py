"""Cache nodes that write down what they are asked: an HTTP server on the loopback interface."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Seen(NamedTuple):
    """A request as a node received it."""

    method: str
    target: str
    host: str
    xkey: str | None
    authorization: str | None


class Node(ThreadingHTTPServer):
    """A loopback server that writes down each request and answers with the status set for its target, else 200."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.release: threading.Event | None = None
        """Where set, answers wait for it."""
        super().__init__(("127.0.0.1", 0), _Recorder)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def targets(self) -> list[str]:
        """The request targets so far, in order."""
        return [seen.target for seen in self.seen]


class _Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Node

    def _answer(self) -> None:
        headers = self.headers
        seen = Seen(self.command, self.path, headers["Host"], headers["xkey"], headers["Authorization"])
        self.server.seen.append(seen)
        if self.server.release is not None:
            self.server.release.wait(30)
        self.send_response(self.server.statuses.get(self.path, 200))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        body = str(len(self.server.seen)).encode()  # another one at each fetch
        self.send_header("Content-Length", str(len(body)))
        with suppress(OSError):  # the client may have left
            self.end_headers()
            self.wfile.write(body)

    do_PURGE = do_BAN = do_GET = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Silent."""


@contextmanager
def running() -> Iterator[Node]:
    """A node that serves in a thread."""
    with Node() as node:
        thread = threading.Thread(target=node.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield node
        finally:
            node.shutdown()
            thread.join()


def free_port() -> int:
    """A port of the loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
