"""`Body`: the iterable that an app returns, observed until it is closed."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from sidefx.scope import enter_scope, is_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import WSGIEnvironment

    from sidefx.wsgi.exchange import Exchange


def observed(exchange: Exchange, iterable: Iterable[bytes], environ: WSGIEnvironment) -> Iterable[bytes]:
    """The same body for the server, which tells the exchange how it ends.

    A file in the server's own wrapper stays one, so that the server sends it as fast as it can, and
    only a body that has a length has one afterwards: servers make a `Content-Length` of it.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(iterable, wrapper) and _observe_closing(exchange, iterable):
        return iterable
    return SizedBody(exchange, iterable) if hasattr(iterable, "__len__") else Body(exchange, iterable)


class Body:
    """What the app returned, each step of it in the request's scope."""

    def __init__(self, exchange: Exchange, iterable: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._iterable = iterable
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        before = enter_scope(exchange.scope)
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            data = next(self._iterator)
        except StopIteration:
            exchange.exhausted()
            self._look_at_recording()
            raise
        except BaseException as error:
            exchange.raised(error)
            raise
        finally:
            enter_scope(before)
        self._passes(data)
        return data

    def close(self) -> None:
        """Closes what the app returned, and hands the effects over."""
        failing = sys.exc_info()[1]
        try:
            close: Callable[[], object] | None = getattr(self._iterable, "close", None)
            if close is not None:
                with _in_scope(self._exchange):
                    close()
        finally:
            self._exchange.end(failing)

    def _passes(self, data: bytes) -> None:
        self._exchange.passed(data)
        self._look_at_recording()

    def _look_at_recording(self) -> None:
        """A test client may never close what it has read, and its test looks at what was scheduled."""
        if self._exchange.taken and is_recording():
            self._exchange.end()


class SizedBody(Body):
    """One that consists of so many pieces; a server may take that many and ask for no more."""

    _taken = 0

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # it has a length, or this would be a Body

    def _passes(self, data: bytes) -> None:
        self._taken += 1
        if self._taken == len(self):
            self._exchange.exhausted()
        super()._passes(data)


def _observe_closing(exchange: Exchange, file: Iterable[bytes]) -> bool:
    """Has the server's own wrapper tell of its end; False where it is not made of Python, and cannot."""
    close: Callable[[], object] | None = getattr(file, "close", None)

    def closed() -> None:
        failing = sys.exc_info()[1]
        exchange.left_to_the_server(getattr(file, "remain", 0))  # waitress counts down; the others fail in mid-file
        try:
            if close is not None:
                with _in_scope(exchange):
                    close()
        finally:
            exchange.end(failing)

    try:
        file.close = closed  # type: ignore[attr-defined]  # it may have none, and has one from now on
    except AttributeError:
        return False
    return True


@contextmanager
def _in_scope(exchange: Exchange) -> Iterator[None]:
    before = enter_scope(exchange.scope)
    try:
        yield
    except BaseException as error:
        exchange.raised(error)
        raise
    finally:
        enter_scope(before)
