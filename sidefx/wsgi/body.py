"""`Body`: the iterable that an app returns, observed until it is closed."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from sidefx.scope import enter_scope, is_recording
from sidefx.wsgi.exchange import REFUSAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import WSGIEnvironment

    from sidefx.wsgi.exchange import Exchange

_END: Any = object()


def observed(exchange: Exchange, iterable: Iterable[bytes], environ: WSGIEnvironment) -> Iterable[bytes]:
    """The same body for the server, which tells the exchange how it ends.

    A file in the server's own wrapper stays one, so that the server sends it as fast as it can, and
    only a body that has a length has one afterwards: servers make a `Content-Length` of it.
    """
    if exchange.refused:
        return RefusedBody(exchange, iterable)
    if exchange.started:
        exchange.secure()
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(iterable, wrapper) and _observe_closing(exchange, iterable):
        return iterable
    return SizedBody(exchange, iterable) if hasattr(iterable, "__len__") else Body(exchange, iterable)


class Body:
    """What the app returned, each step of it in the request's scope."""

    def __init__(self, exchange: Exchange, iterable: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._iterable = iterable
        self._iterator: Iterator[Any] | None = None
        self._refusing = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        before = enter_scope(exchange.scope)
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            data = next(self._iterator, _END)
            exchange.secure()
        except BaseException as error:
            exchange.raised(error)
            exchange.secure_rest(error)
            raise
        finally:
            enter_scope(before)
        if exchange.refused and not self._refusing:  # with its first step at the latest an app begins its response
            data, self._iterator, self._refusing = REFUSAL, iter(()), True
        if data is _END:
            exchange.exhausted()
            self._look_at_recording()
            raise StopIteration
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


class RefusedBody(Body):
    """What is sent in place of the app's body, which is closed, and not asked for anything."""

    def __init__(self, exchange: Exchange, iterable: Iterable[bytes]) -> None:
        super().__init__(exchange, iterable)
        self._iterator = iter(())


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
