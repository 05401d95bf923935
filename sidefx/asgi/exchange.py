"""`Exchange`: one request and its response, observed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidefx.asgi.snapshot import request_info, route_of
from sidefx.errors import ResponseOverError
from sidefx.gate import Passage
from sidefx.scope import Scope, running_effect
from sidefx.verdict import caused_by, verdict

if TYPE_CHECKING:
    from sidefx.asgi.protocol import ASGIScope, Message, Receive, Send
    from sidefx.engine import Engine
    from sidefx.request import Outcome, RequestInfo

_SWITCHING_PROTOCOLS = 101
_REFUSAL = b"Service Unavailable"


class Exchange:
    """One request and its response, or one websocket: observes both, and changes neither."""

    def __init__(self, engine: Engine, scope: ASGIScope, receive: Receive, send: Send) -> None:
        self.scope = Scope(engine, make_request=self._request_info)
        if not isinstance(scope["headers"], (list, tuple)):  # any iterable will do: the app would use it up
            scope["headers"] = [tuple(pair) for pair in scope["headers"]]
        self._passage = None if engine.gate is None or self.scope.gate is None else Passage(self.scope, engine.gate)
        self._asgi_scope = scope
        self._path = scope["path"]
        self._root_path = scope.get("root_path", "")
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._status: int | None = None
        self._bytes = 0
        self._trailers = False
        self.complete = False
        """Whether the last message of the response has passed."""
        self._over = False
        self._refused = False
        self._disconnected = False
        self._send_errors: tuple[OSError, ...] = ()
        self._outcome: Outcome = "unknown"

    async def receive(self) -> Message:
        """Passes on what the server says."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Passes on what the app says.

        Raises:
            ResponseOverError: an effect called it; the response has gone.
        """
        if self._over and running_effect.get() is not None:
            msg = "an effect tried to send a part of the response, which is over; effects cannot change it"
            raise ResponseOverError(msg)
        if self._passage is not None and not await self._may_pass(self._passage, message):
            return
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        before = self.complete, self._status
        try:
            final = self._observe(message)
        except Exception:  # noqa: BLE001 - it is no message of ASGI, and the server is the one to say so
            final = False
        try:
            await self._send(message)
        except OSError as error:  # ASGI 2.4: the client has gone
            if final:
                self.complete = False
            if not self.complete:
                self._disconnected = True
                self._send_errors = (*self._send_errors[:1], error)  # an app may go on and on: the first and the last
            raise
        except Exception:  # the server has refused the message: it did not pass
            self.complete, self._status = before
            raise
        finally:
            if final:
                self._ended = time.perf_counter()

    async def secure_rest(self, *, succeeded: bool) -> None:
        """Takes down what is left, where the server is yet to answer in the app's place."""
        if self._passage is not None and not self.complete:
            await self._passage.secured(self._passage.rest(succeeded=succeeded))

    async def _may_pass(self, passage: Passage, message: Message) -> bool:
        """Returns when the events that were scheduled ahead of the message are on disk; False where it is refused."""
        if self._refused:
            return False
        status = _status_of(message) if self._status is None else self._status
        fails_by_status = self._asgi_scope["type"] == "http"
        starts = fails_by_status and self._status is None
        effects = passage.ahead(status if fails_by_status else None, starts=starts and status is not None)
        if not effects:
            return True
        if status is not None and self.scope.request is not None:
            # what a crash leaves of the response is what the journal has of it
            self.scope.request._complete(route=route_of(self._asgi_scope, self._root_path), status=status)  # noqa: SLF001
        if not await passage.secured(effects, refusable=starts) and not self._refused:
            await self._refuse()
        return not self._refused

    async def _refuse(self) -> None:
        """The journal has failed, and is to be relied on: nothing of the app's own response is sent."""
        self._refused = True
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_REFUSAL))]
        await self._pass({"type": "http.response.start", "status": 503, "headers": headers})
        await self._pass({"type": "http.response.body", "body": _REFUSAL})

    def _observe(self, message: Message) -> bool:
        """Takes down what the message says; True where it ends the response."""
        if self.complete:
            return False
        kind = message["type"]
        if kind in {"http.response.start", "websocket.http.response.start"}:
            self._status = int(message["status"])  # some servers take text
            self._trailers = message.get("trailers", False)
        elif kind in {"http.response.body", "websocket.http.response.body"}:
            self._bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False) and not self._trailers
        elif kind == "http.response.pathsend":
            self.complete = not self._trailers
        elif kind == "http.response.trailers":
            self.complete = not message.get("more_trailers", False)
        elif kind == "websocket.accept":
            self._status = _SWITCHING_PROTOCOLS
        elif kind == "websocket.close" and self._status is None:
            self._status = 403  # https://asgi.readthedocs.io/en/stable/specs/www.html#close-send-event
        return self.complete

    def end(self, error: BaseException | None) -> bool:
        """The app has returned or raised: fills in the outcome, and says whether it was a success."""
        self._over = True
        self._ended = self._ended or time.perf_counter()
        left = self._disconnected
        raised = isinstance(error, Exception) and not caused_by(error, self._send_errors)
        websocket = self._asgi_scope["type"] == "websocket"
        complete = self.complete or (websocket and error is None)
        self._outcome, succeeded = verdict(status=self._status, raised=raised, left=left, complete=complete)
        if self.scope.request_made and self.scope.request is not None:
            self._fill_in(self.scope.request)
        if websocket:
            return not raised and (error is None or isinstance(error, Exception))
        return succeeded

    def _fill_in(self, request: RequestInfo) -> None:
        request._complete(  # noqa: SLF001 - the one place that may
            route=route_of(self._asgi_scope, self._root_path),
            status=self._status,
            bytes_sent=self._bytes,
            duration=None if self._ended is None else self._ended - self._started,
            outcome=self._outcome,
        )

    def _request_info(self) -> RequestInfo:
        info = request_info(self._asgi_scope, self._path, self._root_path)
        if self._over:
            self._fill_in(info)
        return info


def _status_of(message: Message) -> int | None:
    """The status where the message starts a response with one."""
    try:
        starts = message["type"] in {"http.response.start", "websocket.http.response.start"}
        return int(message["status"]) if starts else None  # some servers take text
    except Exception:  # noqa: BLE001 - it is no message of ASGI, and the server is the one to say so
        return None
