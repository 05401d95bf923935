"""What becomes of a response, as effects are told, and as `when` goes by it."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

import sidefx
from sidefx import SideEffects
from sidefx.wsgi import SideEffectsMiddleware
from sidefx.wsgi.exchange import Exchange
from tests.asgi.probe import Probe
from tests.wsgi.by_hand import Response, called, environ_of, served

TEXT = [("Content-Type", "text/plain")]


class AppBug(Exception):
    """What the apps raise where they are to break."""


class Played:
    """An app that schedules, says the status and the headers, and returns the body."""

    def __init__(
        self, fx: SideEffects, probe: Probe, body: Callable[[], Iterable[bytes]], status: str = "200 OK", **headers: str
    ) -> None:
        self.fx = fx
        self.probe = probe
        self.body = body
        self.status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.middleware = SideEffectsMiddleware(self, effects=fx)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.probe.schedule()
        start_response(self.status, self.headers)
        return self.body()

    def ended(self) -> tuple[str, int | None, int, str]:
        """What effects were told: the outcome, the status, the bytes, and which of `success` and `error` it was."""
        self.fx.flush_blocking(10)
        assert [event.what for event in self.probe.events_of("case")] == ["event"]
        always, which = self.probe.of("case")
        assert always == "always"
        seen = self.probe.seen["case"]
        assert seen.duration is not None
        return seen.outcome, seen.status, seen.bytes_sent, which


def stream(*pieces: bytes) -> Iterator[bytes]:
    """A body without a length."""
    yield from pieces


def broken() -> Iterator[bytes]:
    """A body that breaks."""
    yield b"one"
    raise AppBug


@pytest.mark.contract("S13", "W02", "X02")
@pytest.mark.parametrize(
    ("body", "taken", "outcome"),
    [
        (lambda: [b"one", b"two"], 2, "complete"),  # a server may ask for as many pieces as there are, and no more
        (lambda: [b"one", b"two"], 1, "disconnected"),
        (list, 0, "disconnected"),
        (lambda: stream(b"one", b"two"), 3, "complete"),
        (lambda: stream(b"one", b"two"), 2, "disconnected"),
        (lambda: stream(b"one", b"two"), 0, "disconnected"),
    ],
)
def test_a_response_that_is_closed_early(
    fx: SideEffects, probe: Probe, body: Callable[[], Iterable[bytes]], taken: int, outcome: str
) -> None:
    """A server that stops taking has lost its client: no error. One that has taken all there is has not."""
    app = Played(fx, probe, body)
    response = called(app.middleware)
    pieces = iter(response.iterable)
    got = [piece for _ in range(taken) if (piece := next(pieces, None)) is not None]
    response.close()

    assert app.ended() == (outcome, 200, 3 * len(got), "success")


@pytest.mark.contract("A01", "W02")
@pytest.mark.parametrize(
    ("method", "status", "headers", "outcome"),
    [
        ("HEAD", "200 OK", {}, "complete"),
        ("GET", "204 No Content", {}, "complete"),
        ("GET", "304 Not Modified", {}, "complete"),
        ("GET", "200 OK", {"Content_Length": "0"}, "complete"),
        ("GET", "200 OK", {"Content_Length": "1"}, "disconnected"),
        ("GET", "302 Found", {"Location": "/"}, "disconnected"),
    ],
)
def test_a_response_without_a_body_is_not_waited_for(
    fx: SideEffects, probe: Probe, method: str, status: str, headers: dict[str, str], outcome: str
) -> None:
    """HEAD, 204, 304 and a length of zero need nothing of the iterable to be complete."""
    app = Played(fx, probe, stream, status, **headers)
    called(app.middleware, environ_of(method=method)).close()

    assert app.ended() == (outcome, int(status[:3]), 0, "success")


@pytest.mark.contract("W02")
def test_a_response_whose_length_was_reached(fx: SideEffects, probe: Probe) -> None:
    """A server that has sent as much as the header says may close it there."""
    app = Played(fx, probe, lambda: stream(b"one", b"two"), Content_Length="6")
    response = called(app.middleware)
    pieces = iter(response.iterable)
    assert [next(pieces), next(pieces)] == [b"one", b"two"]
    response.close()

    assert app.ended() == ("complete", 200, 6, "success")


@pytest.mark.contract("W03", "S02", "S13")
@pytest.mark.parametrize("started", [False, True])
def test_an_app_that_raises_in_the_call(fx: SideEffects, probe: Probe, started: bool) -> None:
    """Its effects are handed over there: nobody gets anything to close."""

    def fail() -> Iterable[bytes]:
        raise AppBug

    app = Played(fx, probe, fail)
    if not started:
        app.status = "500"
        app.__class__ = _RaisesAtOnce
    with pytest.raises(AppBug):
        called(app.middleware)

    assert app.ended() == ("errored", 200 if started else None, 0, "error")


class _RaisesAtOnce(Played):
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.probe.schedule()
        raise AppBug


@pytest.mark.contract("W03", "S02", "S13")
def test_an_app_that_raises_in_its_body(fx: SideEffects, probe: Probe) -> None:
    """It is an error although its status was 200, and it ends when the server closes it."""
    app = Played(fx, probe, broken)
    response = called(app.middleware)
    with pytest.raises(AppBug):
        list(response.iterable)
    fx.flush_blocking(10)
    assert probe.notes == []
    response.close()

    assert app.ended() == ("errored", 200, 3, "error")


@pytest.mark.contract("W03", "S02", "S13")
def test_an_app_that_raises_where_its_body_is_closed(fx: SideEffects, probe: Probe) -> None:
    """That too is an error of the request, and it reaches the server."""

    class Body(list[bytes]):
        def close(self) -> None:
            raise AppBug

    app = Played(fx, probe, lambda: Body([b"one"]))
    response = called(app.middleware)
    with pytest.raises(AppBug):
        response.send()

    assert app.ended() == ("errored", 200, 3, "error")


@pytest.mark.contract("S02", "S13")
def test_an_app_that_never_says_a_status(fx: SideEffects, probe: Probe) -> None:
    """Nothing was sent, so it is no success."""

    class Silent(Played):
        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            self.probe.schedule()
            return []

    app = Silent(fx, probe, list)
    served(app.middleware)

    assert app.ended() == ("unknown", None, 0, "error")


@pytest.mark.contract("W02", "S13", "X02")
@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), OSError()], ids=repr)
@pytest.mark.parametrize("length", [None, "6"])
def test_a_server_that_cannot_write_the_last_piece(
    fx: SideEffects, probe: Probe, error: OSError, length: str | None
) -> None:
    """It closes with the error in its hands: what it had taken had not been sent."""
    app = Played(fx, probe, lambda: [b"one", b"two"], **({} if length is None else {"Content_Length": length}))
    response = called(app.middleware)
    pieces = iter(response.iterable)
    response.write(next(pieces))
    next(pieces)
    response.fail(error)

    assert app.ended() == ("disconnected", 200, 6, "success")


@pytest.mark.contract("A01", "X02")
def test_a_server_that_sends_a_body_to_head(fx: SideEffects, probe: Probe) -> None:
    """Its client has what it asked for, and leaves: the response was complete."""
    app = Played(fx, probe, lambda: stream(b"one"))
    response = called(app.middleware, environ_of(method="HEAD"))
    next(iter(response.iterable))
    response.fail(ConnectionResetError())

    assert app.ended() == ("complete", 200, 3, "success")


@pytest.mark.contract("X02")
def test_an_error_that_somebody_handles_around_the_server(fx: SideEffects, probe: Probe) -> None:
    """A request served within an `except` has nothing to do with what is handled there."""
    app = Played(fx, probe, lambda: [b"one"])
    try:
        raise AppBug
    except AppBug:
        served(app.middleware)

    assert app.ended() == ("complete", 200, 3, "success")


class ClientDisconnected(Exception):
    """What waitress raises is called so, and is no OSError."""


@pytest.mark.contract("S13", "X02")
@pytest.mark.parametrize("error", [BrokenPipeError, ClientDisconnected])
@pytest.mark.parametrize("passed_on", [False, True])
def test_writing_to_a_client_that_left(fx: SideEffects, probe: Probe, error: type[Exception], passed_on: bool) -> None:
    """What `write()` raises then is no error of the app, whether it passes it on, wrapped or not, or goes on."""

    class Writes(Played):
        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            self.probe.schedule()
            write = start_response("200 OK", TEXT)
            write(b"one")
            response.failure = error()
            try:
                write(b"two")
            except error as caught:
                if passed_on:
                    raise RuntimeError from caught
            return []

    response = Response()
    app = Writes(fx, probe, list)
    try:
        response.iterable = app.middleware(environ_of(), response.start_response)
    except RuntimeError:
        assert passed_on
    else:
        response.send()

    assert app.ended() == ("disconnected", 200, 3, "success")


@pytest.mark.contract("S13", "X02")
def test_a_status_that_is_corrected_in_time(fx: SideEffects, probe: Probe) -> None:
    """The last one counts that the server took: `start_response` may be called again before anything was sent."""

    class Corrects(Played):
        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
            self.probe.schedule()
            start_response("200 OK", TEXT)
            try:
                raise AppBug
            except AppBug:
                start_response("503 Down", TEXT, sys.exc_info())  # type: ignore[arg-type]  # it is being handled
            yield b"sorry"

    app = Corrects(fx, probe, list)
    served(app.middleware)

    assert app.ended() == ("complete", 503, 5, "error")


@pytest.mark.contract("S13", "X02")
def test_a_status_that_comes_too_late(fx: SideEffects, probe: Probe) -> None:
    """Once something was sent, the server raises the error instead, and the status stays what it was."""

    class Late(Played):
        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
            self.probe.schedule()
            start_response("200 OK", TEXT)
            yield b"one"
            try:
                raise AppBug
            except AppBug:
                start_response("503 Down", TEXT, sys.exc_info())  # type: ignore[arg-type]  # it is being handled

    app = Late(fx, probe, list)
    response = called(app.middleware)
    with pytest.raises(AppBug):
        response.send()

    assert app.ended() == ("errored", 200, 3, "error")


# --- a response that nobody closes ---------------------------------------------------------------------------------


@pytest.mark.contract("W02")
@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_response_that_is_never_closed(
    fx: SideEffects, probe: Probe, all_of_it: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken middleware outside loses no effect: they start when Python collects the response; it is told of once."""
    monkeypatch.setattr(Exchange, "_told_of_unclosed", False)
    app = Played(fx, probe, lambda: stream(b"one", b"two"))
    response = called(app.middleware)
    pieces = iter(response.iterable)
    for _ in range(3 if all_of_it else 1):
        next(pieces, None)
    fx.flush_blocking(10)
    assert probe.notes == []
    with caplog.at_level(logging.WARNING, logger="sidefx.wsgi"):
        del response, pieces
        gc.collect()

    sent = 6 if all_of_it else 3
    outcome, which = ("complete", "success") if all_of_it else ("unknown", "error")
    assert app.ended() == (outcome, 200, sent, which)
    assert [record.getMessage()[:33] for record in caplog.records] == ["a response was never closed, as P"]

    caplog.clear()
    called(app.middleware)
    gc.collect()
    fx.flush_blocking(10)
    assert len(probe.delivered) == 2
    assert caplog.records == []


@pytest.mark.contract("W02")
def test_a_response_that_is_collected_at_a_bad_moment(fx: SideEffects, probe: Probe) -> None:
    """The collector may find the very thread in the middle of asking for another request; neither waits."""

    class Rubbish:
        def __init__(self, response: Response) -> None:
            self.response = response
            self.cycle = self

    app = Played(fx, probe, lambda: stream(b"one"))
    gc.disable()
    try:
        Rubbish(called(app.middleware))

        class Collecting(dict[str, Any]):
            def items(self) -> Any:
                gc.collect()
                return super().items()

        def other(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            assert sidefx.request() is not None
            start_response("204 No Content", [])
            return []

        environ = Collecting(environ_of(HTTP_X_REQUEST_ID="other"))
        thread = threading.Thread(target=served, args=(SideEffectsMiddleware(other, effects=fx), environ), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        gc.enable()

    assert app.ended() == ("unknown", 200, 0, "error")
