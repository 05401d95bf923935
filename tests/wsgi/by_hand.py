"""A WSGI server of a few lines, without a socket: what it does to a response, a test says step by step."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults


def environ_of(path: str = "/", method: str = "GET", **extra: Any) -> WSGIEnvironment:
    """What a server makes of a request."""
    environ: WSGIEnvironment = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    environ["HTTP_X_REQUEST_ID"] = "case"
    environ["REMOTE_ADDR"] = "192.0.2.1"
    environ["wsgi.errors"] = io.StringIO()
    return {**environ, **extra}


@dataclass
class Response:
    """One response, from the call of the app to wherever the test takes it."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    iterable: Iterable[bytes] = ()
    headers_sent: bool = False
    failure: BaseException | None = None
    """What the server raises where it is to write, once set: the client has left."""

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """As PEP 3333 has it."""
        if exc_info is not None and self.headers_sent:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                del exc_info
        assert exc_info is not None or not self.status, "start_response was called twice"
        self.status, self.headers = status, headers
        return self.write

    def write(self, data: bytes) -> None:
        """Sends a part of the body."""
        if self.failure is not None:
            raise self.failure
        self.headers_sent = True
        self.body.append(data)

    def send(self) -> None:
        """All there is, as servers do it: closes the iterable whatever happens."""
        try:
            for data in self.iterable:
                self.write(data)
        finally:
            self.close()

    def close(self) -> None:
        """As servers do it: where there is a `close`."""
        close: Callable[[], object] | None = getattr(self.iterable, "close", None)
        if close is not None:
            close()

    def fail(self, error: Exception) -> None:
        """Closes it as a server does that could not write: with the error in its hands."""
        try:
            raise error
        except type(error):
            self.close()


def called(app: WSGIApplication, environ: WSGIEnvironment | None = None) -> Response:
    """Calls the app, and leaves its iterable to the test."""
    response = Response()
    response.iterable = app(environ_of() if environ is None else environ, response.start_response)
    return response


def served(app: WSGIApplication, environ: WSGIEnvironment | None = None) -> Response:
    """A whole response, closed; where the app raises, there is one all the same."""
    response = Response()
    try:
        response.iterable = app(environ_of() if environ is None else environ, response.start_response)
        response.send()
    except Exception as error:  # noqa: BLE001 - a server's last resort
        response.status = response.status or f"500 {type(error).__name__}"
    return response
