"""`Exchange`: one request and its response, observed."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from sidefx.gate import Passage
from sidefx.scope import Scope
from sidefx.verdict import caused_by, verdict
from sidefx.wsgi.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sidefx.effect import Effect
    from sidefx.engine import Engine

_log = logging.getLogger("sidefx.wsgi")

_WITHOUT_BODY = {204, 304}
REFUSAL = b"Service Unavailable"
"""The body in place of the app's own where the journal has failed."""


class Exchange:
    """One request and its response: observes both, and changes neither.

    It ends when the response is closed. Where nobody closes it, it ends when nobody can any more, as it
    is collected: no effect is lost.
    """

    _over = True  # until it is made: one that could not be has nothing to end
    _told_of_unclosed = False

    def __init__(self, engine: Engine, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._snapshot = Snapshot(environ)
        self.scope = Scope(engine, make_request=self._snapshot.request_info)
        self._passage = None if engine.gate is None or self.scope.gate is None else Passage(self.scope, engine.gate)
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
        self._write_errors: tuple[BaseException, ...] = ()
        self._handled_outside = sys.exc_info()[1]
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._status: int | None = None
        self._length: int | None = None
        self._bytes = 0
        self._exhausted = False
        self._unobserved = False
        self._raised = False
        self.refused = False
        """Whether the journal has failed, and the response is a 503 in place of the app's own."""
        self._over = False

    # --- what the app calls -----------------------------------------------------------------------

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Passes on what the app says; what the server refuses has not been said."""
        if self.refused or not self._may_start(_number(status)):
            return self.write
        try:
            rest = () if exc_info is None else (exc_info,)
            self._write = self._start_response(status, headers, *rest)
        finally:
            del exc_info  # its traceback would hold this frame, and this frame the traceback
        self._status = _number(status)
        lengths = [value for name, value in headers if name.lower() == "content-length" and value.isdecimal()]
        self._length = int(lengths[-1]) if lengths else None
        self._snapshot.find_route()
        return self.write

    def write(self, data: bytes) -> object:
        """The imperative way to send a part of the body."""
        assert self._write is not None  # noqa: S101 - start_response has handed this method out
        if self.refused:
            return None
        self.secure()
        try:
            written = self._write(data)
        except Exception as error:
            if _tells_of_a_disconnect(error):
                self._write_errors = (*self._write_errors[:1], error)  # an app may go on and on: the first and the last
            raise
        self.passed(data)
        return written

    @property
    def started(self) -> bool:
        """Whether the app has begun its response."""
        return self._status is not None

    def secure(self) -> None:
        """Returns when the events that were scheduled so far are on disk, before more of the response goes out."""
        if self._passage is not None and (effects := self._passage.ahead(self._status)):
            self._secured(self._passage, effects, self._status)

    def secure_rest(self, error: BaseException) -> None:
        """The same, where the app has raised and the server answers in its place."""
        if self._passage is not None and isinstance(error, Exception):
            self._passage.secured_blocking(self._passage.rest(succeeded=False))

    def _may_start(self, status: int | None) -> bool:
        """The same before the response begins; False where it is refused: nothing of the app's own is sent then."""
        if self._passage is None or not (effects := self._passage.ahead(status, starts=True)):
            return True
        if self._secured(self._passage, effects, status, refusable=not self.started):
            return True
        self.refused = True
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(REFUSAL)))]
        self._write = self._start_response("503 Service Unavailable", headers)
        self._status, self._length = 503, len(REFUSAL)
        return False

    def _secured(
        self, passage: Passage, effects: Sequence[Effect], status: int | None, *, refusable: bool = False
    ) -> bool:
        if status is not None and self.scope.request is not None:
            self.scope.request._complete(status=status)  # noqa: SLF001 - what a crash leaves of the response
        return passage.secured_blocking(effects, refusable=refusable)

    # --- what becomes of the response -------------------------------------------------------------

    def passed(self, data: object) -> None:
        """A part of the body is on its way to the server, which judges what it is."""
        if isinstance(data, bytes):
            self._bytes += len(data)

    def exhausted(self) -> None:
        """The app has given all there is."""
        self._exhausted = True
        self._ended = time.perf_counter()

    def raised(self, error: BaseException) -> None:
        """The app has raised: in the call, in the middle of the body, or where that was closed."""
        self._raised = not caused_by(error, self._write_errors)

    def left_to_the_server(self, unsent: int) -> None:
        """The body is a file that the server reads by itself; so many bytes of it were left when it was closed."""
        self._exhausted = unsent == 0
        self._unobserved = True

    @property
    def taken(self) -> bool:
        """Whether the server has, or needs, no more of the body."""
        return self._exhausted or self._bodiless or (self._length is not None and self._bytes >= self._length)

    def end(self, failing: BaseException | None = None) -> None:
        """The response is over: fills in what has become of it, and hands its effects over. Once.

        `failing` is what the server, or a middleware outside, closes it with in its hands: it could not write.
        """
        failed = isinstance(failing, Exception) and failing is not self._handled_outside
        # some servers send a body after all, and fail with it at a client that waits for none
        complete = self._bodiless or (self.taken and not failed)
        self._end(complete=complete, left=not complete)

    def __del__(self) -> None:
        if self._over:
            return
        if self._status is not None and not Exchange._told_of_unclosed:
            Exchange._told_of_unclosed = True
            _log.warning(
                "a response was never closed, as PEP 3333 has it: a middleware outside of sidefx drops what it is "
                "given, or the server does. Effects of such requests start when Python collects the response [%s %s]",
                self._snapshot.method,
                self._snapshot.path,
            )
        self._end(complete=self.taken, left=False)

    def _end(self, *, complete: bool, left: bool) -> None:
        if self._over:
            return
        self._over = True
        self._ended = self._ended or time.perf_counter()
        if self._unobserved and complete and not self._bodiless:
            self._bytes = self._length or 0
        started = self._status is not None
        outcome, succeeded = verdict(
            status=self._status,
            raised=self._raised,
            left=started and (left or bool(self._write_errors)),
            complete=started and complete,
        )
        self._snapshot.end(
            status=self._status, bytes_sent=self._bytes, duration=self._ended - self._started, outcome=outcome
        )
        self._write_errors, self._handled_outside = (), None  # their tracebacks hold what holds this
        if self.scope.request_made and self.scope.request is not None:
            self._snapshot.complete(self.scope.request)
        self.scope.close(succeeded=succeeded)

    @property
    def _bodiless(self) -> bool:
        return self._snapshot.method == "HEAD" or self._status in _WITHOUT_BODY


def _tells_of_a_disconnect(error: Exception) -> bool:
    """Whether that is how a server says that nobody listens: waitress has an exception of its own for it."""
    return isinstance(error, OSError) or type(error).__name__ == "ClientDisconnected"


def _number(status: str) -> int | None:
    code = status.partition(" ")[0]
    return int(code) if code.isdecimal() else None
