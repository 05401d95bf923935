"""A real HTTP receiver on the loopback interface: it records what it gets, and answers as told."""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType


@dataclass(frozen=True)
class Received:
    """One request; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, decompressed where it says so."""
        compressed = self.headers.get("content-encoding") == "gzip"
        return json.loads(gzip.decompress(self.body) if compressed else self.body)


@dataclass(frozen=True)
class Answer:
    """What to send back; `raw` goes out instead of it all, and the connection is closed."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    raw: bytes | None = None


SILENCE = Answer(raw=b"")


class Collector:
    """`with Collector() as collector:` serves at `collector.url` until the block ends."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: deque[Answer] = deque()
        """One for each request to come; 200 once they are used up."""
        self.connections = 0
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> None:
        """Answer so the next request that has no answer yet."""
        self.answers.append(Answer(status, headers or {}, body))


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # the end waits for them, so that no socket is left behind

    def __init__(self, collector: Collector) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.collector = collector


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10  # a forgotten connection must not hold the server's end for ever

    def setup(self) -> None:
        super().setup()
        self.server.collector.connections += 1
        self.number = self.server.collector.connections

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client left in mid-answer
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # whatever the method
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        collector = self.server.collector
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        answer = collector.answers.popleft() if collector.answers else Answer()
        collector.received.append(Received(self.command, self.path, headers, body))
        if answer.raw is not None:
            self.close_connection = True
            self.wfile.write(answer.raw)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        content = b"" if self.command == "HEAD" or answer.status in {204, 304} else answer.body
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
