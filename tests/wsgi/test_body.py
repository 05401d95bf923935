"""What a server may do with a body because of what it is: the adapter takes none of it away."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import FileWrapper

import gunicorn.http.wsgi
import pytest
import waitress.buffers

import sidefx
from sidefx import SideEffects
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Probe
from tests.wsgi.by_hand import Response, called, environ_of

TEXT = [("Content-Type", "text/plain")]
WRAPPERS = [gunicorn.http.wsgi.FileWrapper, waitress.buffers.ReadOnlyFileBasedBuffer, FileWrapper]


class File(io.BytesIO):
    """A file that says whether it was closed in the request's scope."""

    closed_in: str | None = None

    def close(self) -> None:
        request = sidefx.request()
        self.closed_in = None if request is None else request.request_id
        super().close()


def call(fx: SideEffects, probe: Probe, body: Callable[[WSGIEnvironment], Any], **environ: Any) -> Response:
    """A response with that body, from under the adapter."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe.schedule()
        start_response("200 OK", [*TEXT, ("Content-Length", "6")])
        return body(environ)  # type: ignore[no-any-return]  # whatever the test says

    return called(SideEffectsMiddleware(app, effects=fx), environ_of(**environ))


@pytest.mark.contract("W05")
@pytest.mark.parametrize("pieces", [[], [b"whole"], [b"one", b"two"], (b"whole",)], ids=repr)
def test_what_has_a_length_keeps_it(fx: SideEffects, probe: Probe, pieces: Any) -> None:
    """Servers make a `Content-Length` of a body of one piece."""
    response = call(fx, probe, lambda _: pieces)
    assert len(response.iterable) == len(pieces)  # type: ignore[arg-type]  # that is the question
    response.close()


@pytest.mark.contract("W05")
@pytest.mark.parametrize("make", [lambda: iter([b"whole"]), lambda: map(bytes, [b"whole"])])
def test_what_has_no_length_gets_none(fx: SideEffects, probe: Probe, make: Callable[[], Iterator[bytes]]) -> None:
    """A server that found one would believe it."""
    response = call(fx, probe, lambda _: make())
    assert not hasattr(response.iterable, "__len__")
    response.close()


@pytest.mark.contract("W05", "W02")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_file_stays_in_the_servers_wrapper(fx: SideEffects, probe: Probe, wrapper: type[Any]) -> None:
    """The server gets the very object, and sends it in its own way; closing it closes the file, in the scope."""
    file = File(b"of the file")
    made: list[Any] = []

    def body(environ: WSGIEnvironment) -> Any:
        made.append(environ["wsgi.file_wrapper"](file))
        return made[0]

    response = call(fx, probe, body, **{"wsgi.file_wrapper": wrapper})
    assert response.iterable is made[0]
    fx.flush_blocking(10)
    assert probe.notes == []
    response.close()
    fx.flush_blocking(10)

    assert file.closed_in == "case"
    assert probe.of("case") == ["always", "success"]
    assert (probe.seen["case"].outcome, probe.seen["case"].bytes_sent) == ("complete", 6)


@pytest.mark.contract("W05", "X02")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_file_that_was_not_sent_to_its_end(fx: SideEffects, probe: Probe, wrapper: type[Any]) -> None:
    """A server fails in the middle of it, or, as waitress does, closes what it has not counted down."""
    response = call(fx, probe, lambda environ: wrapper(File(b"of the file")), **{"wsgi.file_wrapper": wrapper})
    if isinstance(response.iterable, waitress.buffers.ReadOnlyFileBasedBuffer):
        response.iterable.prepare(6)
        response.iterable.skip(2)  # what was sent
        response.close()
    else:
        response.fail(ConnectionResetError())
    fx.flush_blocking(10)

    assert probe.of("case") == ["always", "success"]
    assert (probe.seen["case"].outcome, probe.seen["case"].bytes_sent) == ("disconnected", 0)


@pytest.mark.contract("W05", "W02")
def test_a_file_without_a_close(fx: SideEffects, probe: Probe) -> None:
    """It has one from then on: that is how the adapter hears of the end."""

    class Reader:
        def read(self, size: int) -> bytes:
            return b""

    response = call(fx, probe, lambda _: FileWrapper(Reader()), **{"wsgi.file_wrapper": FileWrapper})  # type: ignore[arg-type]  # PEP 3333 asks for no more
    response.close()
    fx.flush_blocking(10)

    assert probe.of("case") == ["always", "success"]


class Slotted:
    """A wrapper that takes no attributes, as one that is written in C."""

    __slots__ = ("file",)

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file

    def __iter__(self) -> Iterator[bytes]:
        yield self.file.read()

    def close(self) -> None:
        self.file.close()


@pytest.mark.contract("W05", "W02")
@pytest.mark.parametrize("wrapper", [Slotted, lambda file: Slotted(file)], ids=["class", "function"])  # noqa: PLW0108 - it is none
def test_a_wrapper_that_cannot_tell_of_its_end(fx: SideEffects, probe: Probe, wrapper: Callable[[Any], Any]) -> None:
    """Such a file is sent piece by piece, and nothing is lost; a wrapper that is no class cannot be told at all."""
    file = File(b"whole.")
    response = call(fx, probe, lambda environ: wrapper(file), **{"wsgi.file_wrapper": wrapper})
    response.send()
    fx.flush_blocking(10)

    assert (response.body, file.closed_in) == ([b"whole."], "case")
    assert (probe.seen["case"].outcome, probe.seen["case"].bytes_sent) == ("complete", 6)


def test_what_an_app_must_not_return(fx: SideEffects, probe: Probe, tmp_path: Path) -> None:
    """The server sees pieces that are no bytes, and a body that is no iterable, and says what it says of them."""
    assert list(itertools.islice(call(fx, probe, lambda _: ["text", None]).iterable, 2)) == ["text", None]
    with pytest.raises(TypeError, match="not iterable"):
        call(fx, probe, lambda _: None).send()
    fx.flush_blocking(10)
