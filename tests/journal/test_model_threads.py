"""The same model, loosely, with the journal's real threads and the real clock: several runtimes, at random."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import anyio
import pytest

from sidefx import JournalOptions, PartialError, PermanentError, RuntimeOptions, SideEffects, after
from tests.journal.model import ATTEMPTS, JOURNALED, KINDS, Key, Solo, goes_to, made, sink_options
from tests.waiting import until

pytestmark = pytest.mark.anyio

LONG = os.environ.get("SIDEFX_LONG_TESTS") == "1"
SECONDS = 60.0 if LONG else 2.0
RUNTIMES = 3


class Sinks:
    """Those of all runtimes: now and then one of them fails."""

    def __init__(self, luck: random.Random) -> None:
        self.luck = luck
        self.works = False
        self.delivered: Counter[Key] = Counter()

    def made(self, names: Sequence[str]) -> dict[str, object]:
        """A sink for each of these names."""

        async def one(event: Solo, name: str) -> None:
            await self._carry(name, [event])

        class One:
            def __init__(self, name: str) -> None:
                self.name = name

            async def send(self, event: Solo) -> None:
                await one(event, self.name)

        class Batches(One):
            send = None  # type: ignore[assignment]

            async def send_batch(self, events: Sequence[Solo]) -> None:
                await carry(self.name, events)

        carry = self._carry
        return {name: Batches(name) if name == "batches" else One(name) for name in names}

    async def _carry(self, name: str, events: Sequence[Solo]) -> None:
        chance = 1.0 if self.works else self.luck.random()
        failures: dict[UUID, Exception] = {}
        if chance < 0.1:
            raise RuntimeError("no")
        if chance < 0.15:
            raise PermanentError("never")
        if chance < 0.2:
            failures = {events[0].id: RuntimeError("no")}
        if chance < 0.3:
            await anyio.sleep(self.luck.uniform(0.0, 0.05))
        self.delivered.update((each.id, name) for each in events if each.id not in failures)
        if failures:
            raise PartialError(failures)


@pytest.mark.contract("L09")
async def test_with_real_threads_every_event_comes_to_its_end_once(tmp_path: Path) -> None:
    """What was acknowledged while runtimes came and went is delivered once, or a dead letter, and nothing is left."""
    seed = int(os.environ.get("SIDEFX_SEED", "0")) or random.randrange(1 << 32)
    print(f"SIDEFX_SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    luck = random.Random(seed)
    options = sink_options(room=3, batch=3)
    options = {
        name: each.model_copy(update={"retry": each.retry.model_copy(update={"initial": 0.001, "max": 0.01})})
        for name, each in options.items()
    }
    sinks, acknowledged, number = Sinks(luck), set[Key](), 0
    ends = anyio.current_time() + SECONDS

    def runtime() -> SideEffects:
        return SideEffects(
            sinks.made(list(options)),
            options,
            runtime=RuntimeOptions(drain_timeout=luck.choice([0.01, 0.1, 5.0])),
            journal=JournalOptions(path=tmp_path / "journal"),
        )

    async def live() -> None:
        nonlocal number
        while anyio.current_time() < ends:
            async with runtime() as fx:
                for _ in range(luck.randrange(60)):
                    events = [made(luck.choice(list(KINDS.values())), number + i) for i in range(luck.randrange(1, 6))]
                    number += len(events)
                    if luck.random() < 0.5:
                        await fx.emit(events[0])
                        acknowledged.update(goes_to(events[0], options))
                    else:
                        async with fx.scope():
                            for event in events:
                                after(event)
                        acknowledged.update(key for event in events for key in goes_to(event, options))
                    if luck.random() < 0.1:
                        await anyio.sleep(luck.uniform(0.0, 0.02))
                    _adds_up(fx)
                if luck.random() < 0.2:
                    await fx.replay()
            _adds_up(fx)

    async with anyio.create_task_group() as lives:
        for _ in range(RUNTIMES):
            lives.start_soon(live)

    sinks.works = True
    async with runtime() as fx:
        await fx.flush(30)
        await until(lambda: fx.stats().journal.segments == 1, within=10)  # type: ignore[union-attr]
        letters = {(letter.event_id, letter.sink) for letter in fx.dead_letters}
        assert all(letter.attempts <= ATTEMPTS for letter in fx.dead_letters)
        _adds_up(fx)
    durable = {key for key in acknowledged if key[1] in JOURNALED}
    assert durable, "nothing was acknowledged"
    assert durable <= letters | set(sinks.delivered)
    given = {key: count for key, count in sinks.delivered.items() if key[1] != "last"}
    assert max(given.values()) == 1, [key for key, count in given.items() if count > 1]
    assert {path.name for path in (tmp_path / "journal").iterdir()} == {"dead.sqlite"}


def _adds_up(fx: SideEffects) -> None:
    for name, sink in fx.stats().sinks.items():
        assert sink.accepted == sink.settled + sink.queued + sink.in_flight, (name, sink)
