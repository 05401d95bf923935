"""What waits for the disk outside of a response, and what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from sidefx import Event, JournalOptions, SideEffects, SinkOptions, after
from sidefx.asgi import SideEffectsMiddleware
from sidefx.effect import Effect
from sidefx.scope import current_scope
from sidefx.testing import capture
from tests.disk import held, rows_of
from tests.journal.remains import names
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Written(Event, kind="gate.written"):
    """What is journaled."""


class Numbered(Event, kind="gate.numbered"):
    """The same, in an order."""

    n: int


def durable(folder: Path, got: list[Event], **journal: Any) -> SideEffects:
    """A runtime whose one sink is journaled."""

    async def sink(event: Written) -> None:
        got.append(event)

    options = {"sink": SinkOptions(delivery="journal")}
    return SideEffects({"sink": sink}, options, journal=JournalOptions(path=folder, **journal))


@pytest.fixture
def got() -> list[Event]:
    """What the sink was given."""
    return []


@pytest.fixture
async def fx(tmp_path: Path, got: list[Event], anyio_backend: str) -> AsyncIterator[SideEffects]:
    """A running one, whose responses wait for the disk."""
    async with durable(tmp_path, got, timeout=20.0) as running:
        yield running


@pytest.mark.contract("J01")
async def test_emit_and_a_scope_return_once_the_event_is_on_disk(fx: SideEffects, got: list[Event]) -> None:
    """While the disk is held, neither does, and no sink is called."""
    returned: list[str] = []

    async def emit() -> None:
        await fx.emit(Written())
        returned.append("emit")

    async def scope() -> None:
        async with fx.scope("job"):
            after(Written())
        returned.append("scope")

    with held(fx) as disk:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit)
            tasks.start_soon(scope)
            await anyio.to_thread.run_sync(disk.reached)
            await anyio.wait_all_tasks_blocked()
            assert (returned, got) == ([], [])
            disk.open()
    assert sorted(returned) == ["emit", "scope"]
    await fx.flush(5)
    assert len(got) == 2


@pytest.mark.contract("J01")
async def test_in_the_background_nobody_waits(tmp_path: Path, got: list[Event]) -> None:
    """With `ack = "background"` both return while the disk is held; the sink is called once it is not."""
    async with durable(tmp_path, got, ack="background", timeout=20.0) as fx:
        with held(fx) as disk:
            await fx.emit(Written())
            async with fx.scope("job"):
                after(Written())
            await anyio.to_thread.run_sync(disk.reached)
            assert got == []
            disk.open()
        await fx.flush(5)
        assert len(got) == 2


async def test_a_scope_that_is_over_keeps_nothing(fx: SideEffects) -> None:
    """What is scheduled outside of any work goes to the journal by its lane: no gate is ever asked for it."""
    scope = fx.engine.open_scope()
    for _ in range(100):
        after(Written())
    assert not scope.fresh
    await fx.flush(5)


async def test_what_a_test_records_is_not_journaled(fx: SideEffects, got: list[Event]) -> None:
    """Under `capture()` nothing is written, whatever the sink's delivery."""
    with capture() as captured:
        async with fx.scope("job"):
            after(Written())
    assert len(captured.events(Written)) == 1
    assert rows_of(fx) == 0
    assert got == []


@pytest.mark.contract("J09")
async def test_what_a_failed_job_voids_is_nowhere(fx: SideEffects, got: list[Event]) -> None:
    """A `when="success"` event of a block that raises is neither on disk nor delivered."""
    with suppress(LookupError):
        async with fx.scope("job"):
            after(Written(), when="success")
            raise LookupError
    await fx.flush(5)
    await until(lambda: rows_of(fx) == 0)
    assert got == []


@pytest.mark.contract("J01", "J07")
async def test_a_journal_that_is_closed_lets_no_response_through(tmp_path: Path, got: list[Event]) -> None:
    """Where it is to be relied on: a request may outlive its runtime."""
    runtime = durable(tmp_path, got, on_failure="refuse")
    async with runtime:
        gate = runtime.engine.gate
        assert gate is not None
        assert await gate.secured([Effect(Written())], refusable=True)
    assert not await gate.secured([Effect(Written())], refusable=True)
    assert gate.secured_blocking([Effect(Written())])


@pytest.mark.contract("J01")
async def test_in_the_background_it_is_written_although_nobody_waits(tmp_path: Path, got: list[Event]) -> None:
    """`ack = "background"`: the response goes on at once, and the disk begins at once."""
    async with durable(tmp_path, got, ack="background") as fx:
        assert fx.engine.gate is not None
        assert await fx.engine.gate.secured([Effect(Written())])
        await until(lambda: fx.stats().journal.committed == 1)
        assert fx.engine.gate.secured_blocking([Effect(Written())])
        await until(lambda: fx.stats().journal.committed == 2)


@pytest.mark.contract("J01", "L04")
async def test_what_a_filter_cannot_decide_is_on_disk_until_its_dead_letter_is(tmp_path: Path) -> None:
    """The filter raises when it is asked, before the response as afterwards."""

    async def sink(event: Written) -> None:
        raise AssertionError

    def undecided(event: Event) -> bool:
        raise LookupError

    lane = {"sink": SinkOptions(delivery="journal", filter=undecided)}
    async with SideEffects({"sink": sink}, lane, journal=JournalOptions(path=tmp_path)) as fx:
        async with fx.scope():
            after(Written())
            scope = current_scope()
            assert scope is not None
            assert fx.engine.gate is not None
            await fx.engine.gate.secured(scope.unsecured(succeeded=True))
            assert fx.stats().journal.committed == 1
        await fx.flush(5)
        await until(lambda: len(fx.dead_letters) == 1)
        assert fx.stats().sinks["sink"].rejected == 1
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("L06")
async def test_what_is_on_disk_does_not_overtake_what_is_being_written(tmp_path: Path) -> None:
    """What is written only once the request has failed, and was scheduled first, is delivered first."""
    got: list[int] = []

    async def sink(event: Numbered) -> None:
        got.append(event.n)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Numbered(n=1), when="error")
        after(Numbered(n=2))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        raise LookupError

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        pass

    lane = {"sink": SinkOptions(delivery="journal")}
    async with SideEffects({"sink": sink}, lane, journal=JournalOptions(path=tmp_path)) as fx:
        with suppress(LookupError):
            scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
            await SideEffectsMiddleware(app, effects=fx)(scope, receive, send)
        await fx.flush(5)
    assert got == [1, 2]
