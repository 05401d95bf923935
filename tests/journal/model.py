"""What must hold of every event and sink, whatever happens to the processes, the disk and the sinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias
from uuid import UUID

from sidefx import BatchOptions, BreakerOptions, BufferOptions, Event, RetryOptions, SinkOptions
from tests.journal.faults import Row

Key: TypeAlias = tuple[UUID, str]
"""An event's id and a sink."""
Place: TypeAlias = tuple[str, int, str]
"""A segment, the number of an event in it, and a sink."""

ATTEMPTS = 3
MASKED = "[redacted]"


class Solo(Event, kind="model.solo"):
    """For one journaled sink, and one in memory."""

    n: int
    secret: str


class Pair(Solo, kind="model.pair"):
    """For two."""


class Triple(Solo, kind="model.triple"):
    """For three."""


class Masked(Solo, kind="model.masked"):
    """For one that must not see its secret."""


class Plain(Solo, kind="model.plain"):
    """For the sink in memory alone."""


class Family(Solo, kind="model.family"):
    """Stands for two others."""

    def effects(self) -> Iterator[Event]:
        yield made(Solo, 1_000_000 + self.n)
        yield made(Masked, 2_000_000 + self.n)


KINDS: dict[str, type[Solo]] = {kind.kind: kind for kind in (Solo, Pair, Triple, Masked, Plain, Family)}
JOURNALED = ("one", "batches", "wide", "last")
_SINKS: dict[str, tuple[str, ...]] = {
    "one": ("model.solo", "model.pair", "model.triple"),
    "batches": ("model.pair", "model.triple", "model.family"),
    "wide": ("model.triple", "model.masked"),
    "memory": ("model.solo", "model.pair", "model.triple", "model.plain"),
    "last": (),
}


def made(kind: type[Solo], n: int) -> Solo:
    """The event of that number; the same at every call."""
    return kind(id=UUID(int=(n << 64) | n * 2_654_435_761 % (1 << 32)), n=n, secret=f"s{n}")


def passes(event: Event) -> bool:
    """What the filter of `batches` says."""
    return not isinstance(event, Solo) or event.n % 5 != 3


def sink_options(room: int, batch: int) -> dict[str, SinkOptions]:
    """A lane of each kind, small."""
    retry = RetryOptions(attempts=ATTEMPTS, initial=0.1, max=1.0)
    common = SinkOptions(
        delivery="journal", timeout=10.0, deadline=100.0, retry=retry, breaker=BreakerOptions(failures=4, reset=5.0)
    )
    made_of = {
        "one": {"buffer": BufferOptions(max_events=room), "fallback": "last"},
        "batches": {
            "buffer": BufferOptions(max_events=room + 2, when_full="drop_oldest"),
            "batch": BatchOptions(max_events=batch, linger=0.05),
            "filter": passes,
        },
        "wide": {
            "buffer": BufferOptions(max_events=room + 1),
            "concurrency": 2,
            "sample": 0.75,
            "redact": ("secret",),
        },
        "memory": {"buffer": BufferOptions(max_events=room + 2), "delivery": "memory"},
        "last": {},
    }
    return {
        name: common.model_copy(update={"events": _SINKS[name], **options})  # no validation: all are valid
        for name, options in made_of.items()
    }


def goes_to(event: Solo, sinks: Iterable[str]) -> list[Key]:
    """Which of these sinks are to have it, and what it stands for."""
    keys = [
        (event.id, name)
        for name in sinks
        if event.kind in _SINKS[name]
        and not (name == "batches" and not passes(event))
        and not (name == "wide" and event.id.int % (1 << 32) >= int(0.75 * (1 << 32)))
    ]
    for further in event.effects():
        assert isinstance(further, Solo)
        keys += goes_to(further, sinks)
    return keys


class Model:
    """What was promised of each event and sink, and what came of it."""

    def __init__(self) -> None:
        self.due: set[Key] = set()
        """Were acknowledged, and have been neither delivered nor purged."""
        self.allowed: Counter[Key] = Counter()
        """How often they may have been delivered, at most."""
        self.delivered: Counter[Key] = Counter()
        self.calls: Counter[Key] = Counter()
        self.attempts: dict[Place, int] = {}
        """The attempts of a row when its sink was called last."""
        self.voided: set[Key] = set()
        """Were on disk, and are not to happen."""
        self.replayed: list[tuple[Key, Key, int]] = []
        """Dead letters, where each was sent to, and how often that had been delivered before."""
        self.moved: set[Key] = set()
        """Dead letters that were sent to a sink, their own or another."""
        self.wrong: list[str] = []
        """What does not hold."""

    def says(self, holds: object, what: str) -> None:
        """Remembers what does not."""
        if not holds:
            self.wrong.append(what)

    def keeps(self, keys: Iterable[Key]) -> None:
        """They have been given to their lanes, or are about to be."""
        self.allowed.update(keys)

    def voids(self, keys: Iterable[Key]) -> None:
        """They are not to happen after all."""
        self.allowed.subtract(keys)
        self.voided.update(keys)

    def acknowledges(self, keys: Iterable[Key]) -> None:
        """Whoever has scheduled them knows that they are on disk."""
        self.due.update(key for key in keys if key[1] in JOURNALED and self.delivered[key] == 0)

    def delivers(self, event: Solo, sink: str) -> None:
        """A sink has had it."""
        key = event.id, sink
        self.delivered[key] += 1
        self.due.discard(key)
        self.says(
            self.delivered[key] <= self.allowed[key],
            f"{_named(key)} was delivered {self.delivered[key]} times, and may be {self.allowed[key]} times",
        )
        if key not in self.moved:
            secret = MASKED if sink == "wide" else f"s{event.n}"
            self.says(event.secret == secret, f"{sink} saw the secret {event.secret!r} in place of {secret!r}")

    def is_called(self, key: Key, place: Place, row: Row, *, counted: bool, again: bool) -> None:
        """A sink is called with what is in the journal.

        `counted` says that the disk does what it is to do; `again`, that this process has called it for that row.
        """
        before, self.attempts[place] = self.attempts.get(place, 0), row.attempts
        self.says(row.attempts <= ATTEMPTS, f"{_named(key)}: {row.attempts} attempts counted, {ATTEMPTS} allowed")
        if counted:
            self.says(row.leased, f"{_named(key)}: its sink is called, and no process would know of it")
            exact = row.attempts == before + 1  # a process that has ended may have counted one that it did not come to
            self.says(
                exact or (row.attempts > before and not again),
                f"{_named(key)}: of attempt {before + 1} the disk says that it is attempt {row.attempts}",
            )

    def is_left(self, rows: Sequence[Row], *, crashed: bool, excused: bool) -> None:
        """A runtime has ended with these on disk: each may be delivered once more; `excused` by a disk that failed."""
        for key, found in Counter((row.uuid, row.sink) for row in rows).items():
            if not excused and (not crashed or key not in self.voided):
                in_flight = crashed and any(row.leased for row in rows if (row.uuid, row.sink) == key)
                self.says(
                    in_flight or self.delivered[key] < self.allowed[key],
                    f"{_named(key)} has settled before the {'crash' if crashed else 'end'}, and is still there",
                )
            self.allowed[key] = max(self.allowed[key], self.delivered[key] + found)

    def is_replayed(self, letters: Iterable[tuple[UUID, str, str]]) -> None:
        """Dead letters are on their way to a sink: each is delivered, or is a letter, as before or of that sink."""
        for event_id, sink, target in letters:
            own, new = (event_id, sink), (event_id, target)
            self.allowed[new] += 1
            self.moved.add(new)
            self.due.discard(own)
            self.replayed.append((own, new, self.delivered[new]))

    def is_purged(self, keys: Iterable[Key]) -> None:
        """Somebody does not want them any more."""
        gone = set(keys)
        self.due -= gone
        self.replayed = [each for each in self.replayed if not gone & {each[0], each[1]}]

    def lost(self, letters: Collection[Key]) -> set[Key]:
        """What was acknowledged or replayed, and has come to no sink, and to none of these dead letters."""
        on_the_way = {new for own, new, before in self.replayed if self.delivered[new] == before and own not in letters}
        return (self.due | on_the_way) - set(letters)


def _named(key: Key) -> str:
    return f"event {key[0].int >> 64} for {key[1]}"
