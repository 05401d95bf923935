"""A disk that does as the test says: it stands before the file that a runtime's journal writes to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.asgi.probe import Gate

if TYPE_CHECKING:
    from sidefx import SideEffects
    from sidefx.journal.segment import Segment


def segment_of(fx: SideEffects) -> Segment:
    """The file that it writes to."""
    assert fx.engine.journal is not None
    assert fx.engine.journal._writer is not None
    return fx.engine.journal._writer.own


def commits_of(fx: SideEffects) -> int:
    """How often it has written events."""
    assert fx.engine.journal is not None
    assert fx.engine.journal._writer is not None
    return fx.engine.journal._writer.commits


def rows_of(fx: SideEffects) -> int:
    """How many deliveries are on disk now, once all that is to be written by now has been."""
    assert fx.engine.journal is not None
    assert fx.engine.journal._writer is not None
    looked = fx.engine.journal._writer.call(lambda: sum(segment_of(fx).rows.values()))
    assert looked.finished_blocking(10)
    return int(looked.result)


@contextmanager
def held(fx: SideEffects) -> Iterator[Gate]:
    """Meanwhile new events are written, but on disk only once the gate is open: somebody stands before it."""
    with Gate() as gate, _before_each_commit(fx, gate.passed_blocking):
        yield gate


@contextmanager
def failing(fx: SideEffects) -> Iterator[None]:
    """Meanwhile nothing can be written, nor tried to."""

    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with _before_each_commit(fx, fail):
        yield


@contextmanager
def _before_each_commit(fx: SideEffects, call: Callable[[], object]) -> Iterator[None]:
    segment = segment_of(fx)
    whole = segment.transaction

    @contextmanager
    def transaction(*, synchronous: str) -> Iterator[None]:
        with whole(synchronous=synchronous):
            yield
            if synchronous == "FULL":  # new events; what settles is not waited for
                call()

    segment.transaction = transaction  # type: ignore[method-assign]
    try:
        yield
    finally:
        segment.transaction = whole  # type: ignore[method-assign]
