"""PEP 3333 in both directions: `wsgiref.validate` stands outside of the adapter, and inside of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import pytest

from sidefx import SideEffects
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Probe
from tests.wsgi.by_hand import Response, called, environ_of, served

TEXT = [("Content-Type", "text/plain")]


def _list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"one", b"two"]


def _generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)  # with the first step, which is late but allowed
    yield b"one"
    yield b"two"


def _writing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)(b"one")
    return [b"two"]


def _empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def _corrected(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    try:
        raise LookupError
    except LookupError:
        start_response("404 Not Found", TEXT, sys.exc_info())  # type: ignore[arg-type]  # it is being handled
    return [b"one", b"two"]


APPS = [_list, _generator, _writing, _empty, _corrected]


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_the_validator_finds_nothing(app: WSGIApplication, fx: SideEffects, probe: Probe) -> None:
    """Server and app see each other through the adapter as they would without it; nothing breaks the protocol."""

    def scheduling(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        probe.schedule()
        return app(environ, start_response)

    response = served(validator(SideEffectsMiddleware(validator(scheduling), effects=fx)))
    fx.flush_blocking(10)

    plain = served(app)
    assert (response.status, response.headers, response.body) == (plain.status, plain.headers, plain.body)
    assert sorted(probe.of("case")) == sorted(["always", "success" if plain.status < "400" else "error"])


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_what_the_app_returns_is_closed(app: WSGIApplication, fx: SideEffects) -> None:
    """A response that is closed early is closed inside too: the validator complains of one that is not."""
    response = called(SideEffectsMiddleware(validator(app), effects=fx))
    next(iter(response.iterable), None)
    response.close()


@pytest.mark.parametrize("error", [LookupError("of the app"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_the_app_raises_is_raised_unchanged(error: BaseException, fx: SideEffects) -> None:
    """The very same exception, from the call as from the body and from its closing."""

    def raising(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise error

    def streaming(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"one"
        raise error

    class Closing(list[bytes]):
        def close(self) -> None:
            raise error

    def closing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return Closing([b"one"])

    apps: list[tuple[WSGIApplication, Callable[[Any], object]]] = [
        (raising, lambda response: None),
        (streaming, lambda response: list(response.iterable)),
        (closing, lambda response: response.close()),
    ]
    for app, go_on in apps:
        responses: list[Response] = []

        def call_and_go_on(
            app: WSGIApplication = app, go_on: Any = go_on, responses: list[Response] = responses
        ) -> None:
            responses.append(called(SideEffectsMiddleware(app, effects=fx), environ_of()))
            go_on(responses[0])

        with pytest.raises(type(error)) as raised:
            call_and_go_on()
        assert raised.value is error
        if app is streaming:
            responses[0].close()
