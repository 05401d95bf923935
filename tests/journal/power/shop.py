"""A shop whose side effects are journaled: what happens in it, and what a restart makes of its journal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import anyio

from sidefx import (
    BreakerOptions,
    Event,
    JournalOptions,
    PermanentError,
    RetryOptions,
    RuntimeOptions,
    SideEffects,
    SinkOptions,
    TransientError,
    after,
)
from sidefx.asgi import SideEffectsMiddleware
from tests.journal.power.vfs import Recorder

JOURNAL = Path("state/journal")
SINKS = ("audit", "mail", "never")
PATIENCE = 30.0

_OPTIONS = {
    name: SinkOptions(
        delivery="journal",
        retry=RetryOptions(attempts=3, initial=0.001, max=0.002),
        breaker=BreakerOptions(failures=1_000),
    )
    for name in SINKS
}


class Ordered(Event, kind="power_test.ordered"):
    number: int
    note: str


class Shop:
    """Emits, answers requests, delivers, is refused, and replays; it marks on the tape what was acknowledged when."""

    def __init__(self, recorder: Recorder, synchronous: Literal["FULL", "NORMAL"], random: Random) -> None:
        self._journal = JournalOptions(path=recorder.root / JOURNAL, synchronous=synchronous)
        self._mark = recorder.mark
        self._random = random
        self._numbers = itertools.count()
        self._mended = False

    async def live(self, rounds: int) -> None:
        """Two runs; the second takes over what the first has left."""
        for mended in (False, True):
            self._mended = mended
            async with SideEffects(
                {"audit": self._Audit(self), "mail": self._mail, "never": self._never},
                _OPTIONS,
                runtime=RuntimeOptions(drain_timeout=0.05),
                journal=self._journal,
            ) as fx:
                for _ in range(rounds):
                    async with anyio.create_task_group() as group:
                        for act in self._random.choices((self._emit, self._request), k=self._random.choice((1, 2, 5))):
                            group.start_soon(act, fx)
                    if self._random.random() < 0.5:
                        await fx.replay()

    def _event(self) -> Ordered:
        return Ordered(number=next(self._numbers), note="x" * self._random.choice((0, 200, 6_000)))

    def _acknowledged(self, event: Ordered) -> None:
        for sink in SINKS:
            self._mark("acknowledged", (event.number, sink))

    async def _emit(self, fx: SideEffects) -> None:
        event = self._event()
        await fx.emit(event)
        self._acknowledged(event)

    async def _request(self, fx: SideEffects) -> None:
        """What was scheduled ahead of the response is acknowledged by its first byte."""
        events = [self._event() for _ in range(self._random.choice((1, 3)))]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for event in events:
                after(event)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ordered"})

        async def receive() -> Any:
            await anyio.sleep_forever()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                for event in events:
                    self._acknowledged(event)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
        await SideEffectsMiddleware(app, effects=fx)(scope, receive, send)

    # --- its sinks --------------------------------------------------------------------------------

    class _Audit:
        def __init__(self, shop: Shop) -> None:
            self._shop = shop

        async def send_batch(self, events: Sequence[Ordered]) -> None:
            for event in events:
                self._shop._mark("delivered", (event.number, "audit"))

    async def _mail(self, event: Ordered) -> None:
        if self._random.random() < 0.2:
            raise TransientError("a bad moment")
        if event.number % 2 == 0 and not self._mended:
            raise PermanentError("no such address")
        self._mark("delivered", (event.number, "mail"))

    async def _never(self, event: Ordered) -> None:
        await anyio.sleep_forever()


async def refused(root: Path, numbers: Iterable[int]) -> None:
    """Leaves dead letters: what was for `mail`."""

    async def mail(event: Ordered) -> None:
        raise PermanentError("no such address")

    async with SideEffects(
        {"mail": mail}, {"mail": _OPTIONS["mail"]}, journal=JournalOptions(path=root / JOURNAL)
    ) as fx:
        for number in numbers:
            await fx.emit(Ordered(number=number, note=""))
        await fx.flush(PATIENCE)


@dataclass(slots=True)
class Restart:
    """A start on a journal that a cut has left, with sinks that take everything; and its stop."""

    root: Path
    note: Callable[[object], object]
    """Called with each delivery."""
    replays: bool = False
    """Whether dead letters are replayed before it stops."""
    letters: set[object] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    """What is wrong with the journal, and which segments are left of it at the end."""

    async def run(self) -> None:
        """Delivers all that is there."""
        journal = JournalOptions(path=self.root / JOURNAL)
        async with SideEffects({name: self._Sink(self, name) for name in SINKS}, _OPTIONS, journal=journal) as fx:
            if self.replays:
                await fx.replay()
            await fx.flush(PATIENCE)
            self.wrong += [reason for reason in fx.health().reasons if reason.startswith("journal")]
            for letter in fx.dead_letters:
                assert isinstance(letter.event, Ordered)
                self.letters.add((letter.event.number, letter.sink))
        self.wrong += [path.name for path in journal.path.glob("*.sqlite") if path.stem != "dead"]

    class _Sink:
        def __init__(self, restart: Restart, name: str) -> None:
            self._restart = restart
            self._name = name

        async def send_batch(self, events: Sequence[Ordered]) -> None:
            for event in events:
                self._restart.note((event.number, self._name))
