"""What the journal stores of an event, and what it must not: fields that none of its sinks may see."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError, field_serializer

from sidefx import Event, RetryOptions, SinkOptions, after
from sidefx.effect import Effect
from sidefx.events import UnknownKindError
from sidefx.journal.segment import EventRow
from sidefx.journal.stored import restored, stored
from sidefx.lanes.redact import Redactor
from tests.journal.remains import Counted, Sink, journaled, undecodable
from tests.waiting import until


class Signed(Event, kind="journal_test.signed_up"):
    """With something that not everybody may see."""

    user: str = "ann"
    password: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    items: list[dict[str, str]] = Field(default_factory=list)


SECRETS = ("PASS-1f0c", "TOKEN-77aa", "CARD-4242", "CITY-oslo")


def signed() -> Signed:
    """With all the secrets."""
    password, token, card, city = SECRETS
    return Signed(
        password=password,
        metadata={"token": token, "city": city, "deep": {"card": card}},
        items=[{"card": card, "city": city}],
    )


def kept_of(event: Event, *redactions: Sequence[str]) -> Event:
    """What is read back of what was stored for sinks with these redactions."""
    row = stored(Effect(event), [Redactor(paths) for paths in redactions] if all(redactions) else [])
    restored_event = restored(EventRow(1, *row), 0).event
    assert restored_event is not None
    return restored_event


def test_an_effect_comes_back_as_it_was() -> None:
    """The event with its id and time, the name, the timeout and the call site; it has been attempted so often."""
    effect = Effect(Counted(n=7, text="ü\0\n"), name="a name", timeout=2.5)
    effect.site = "C:/a:b.py:12"
    effect.replayed = True
    back = restored(EventRow(1, *stored(effect, [])), 3)
    assert back.event == effect.event
    assert (back.name, back.timeout, back.site, back.attempts, back.replayed) == (
        *("a name", 2.5, "C:/a:b.py:12"),
        *(3, True),
    )


@pytest.mark.anyio
async def test_half_a_character_in_a_name_costs_nothing(tmp_path: Path) -> None:
    """JSON from a client may have such text, and the journal takes it, with all that comes after it."""
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        async with fx.scope():
            after(Counted(n=1), name="half \ud800")
        async with fx.scope():
            after(Counted(n=2))
        await fx.flush(5)
        assert fx.stats().journal.committed == 2  # type: ignore[union-attr]
    assert sink.given == [1, 2]


def test_what_cannot_be_read_says_what_is_wrong() -> None:
    """A kind that nobody has imported, text that is no JSON, and JSON that is no such event."""
    for row, error in (
        (undecodable(b"{}", kind="nobody.knows"), UnknownKindError),
        (undecodable(b"\xff{"), ValueError),
        (undecodable(b'{"n": "no number"}'), ValidationError),
    ):
        with pytest.raises(error):
            restored(EventRow(1, *row), 0)


# --- redaction ----------------------------------------------------------------------------------------------


@pytest.mark.contract("L11")
@pytest.mark.parametrize(
    ("redactions", "hidden"),
    [
        ([["password"]], {"PASS-1f0c"}),
        ([["password"], ["password"]], {"PASS-1f0c"}),
        ([["password"], []], set()),
        ([["password"], ["metadata.token"]], set()),
        ([["metadata.*"], ["metadata.token"]], {"TOKEN-77aa"}),
        ([["metadata"], ["metadata.token", "password"]], {"TOKEN-77aa"}),
        ([["metadata.deep"], ["metadata.deep.card", "items"]], set()),
        ([["metadata.deep", "items.*.card"], ["*.deep.card", "items"]], {"CARD-4242"}),
        ([["items.0.city", "metadata.city"], ["items", "metadata"]], {"CITY-oslo"}),
        ([["*"], ["*"]], set(SECRETS)),
    ],
)
def test_what_every_sink_hides_is_not_stored_and_all_else_is(redactions: list[list[str]], hidden: set[str]) -> None:
    """Partial overlaps included: a value is hidden where each of them hides it, by whatever path."""
    event = signed()
    text = stored(Effect(event), [Redactor(paths) for paths in redactions] if all(redactions) else [])[2].decode()
    assert {secret for secret in SECRETS if secret not in text} == hidden
    assert kept_of(event, *redactions).id == event.id


class Forgetful:
    """A sink with a redaction, which keeps the text of what it gets."""

    def __init__(self) -> None:
        self.seen = ""

    async def send(self, event: Signed) -> None:
        self.seen += event.model_dump_json()
        raise LookupError


@pytest.mark.anyio
@pytest.mark.contract("L11")
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (["password", "metadata.*"], ["password", "metadata.token"], {"PASS-1f0c", "TOKEN-77aa"}),
        (["password"], [], set()),
    ],
)
async def test_no_file_of_the_journal_has_what_every_sink_hides(
    a: list[str], b: list[str], expected: set[str], tmp_path: Path
) -> None:
    """Neither the segment nor its log, nor the dead letters nor the status; where one sink sees it, it is there."""
    sinks = {"a": Forgetful(), "b": Forgetful()}
    once = RetryOptions(attempts=1)
    lanes = {
        "a": SinkOptions(delivery="journal", redact=tuple(a), retry=once),
        "b": SinkOptions(delivery="journal", redact=tuple(b), retry=once),
    }
    async with journaled(tmp_path, lanes=lanes, **sinks) as fx:
        await fx.emit(signed())
        found = written(tmp_path)
        await fx.flush(5)
        await until(lambda: len(fx.dead_letters) == 2)
        dead = {letter.sink: letter.event for letter in fx.dead_letters}
    assert {secret for secret in SECRETS if secret.encode() not in found} == expected
    for name, redactions in (("a", a), ("b", b)):
        event = dead[name]
        assert isinstance(event, Signed)
        assert (event.password == SECRETS[0]) == ("password" not in redactions)
        assert ("PASS-1f0c" in sinks[name].seen) == ("password" not in redactions)


def written(folder: Path) -> bytes:
    """All bytes of all files."""
    found = b""
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):  # the status, on its way to its name
            found += path.read_bytes()
    return found


class Unwritable(Event, kind="journal_test.unwritable"):
    """Its JSON cannot be made."""

    n: int = 0

    @field_serializer("n")
    def _fail(self, value: int) -> int:
        raise LookupError("of a user's own making")


@pytest.mark.anyio
async def test_an_event_that_has_no_json_goes_its_way_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of, and what comes with it is kept as ever."""
    given: list[Event] = []

    async def sink(event: Unwritable | Counted) -> None:
        given.append(event)

    options = {"s": SinkOptions(delivery="journal", max_event_bytes=None)}
    async with journaled(tmp_path, lanes=options, s=sink) as fx:
        async with fx.scope():
            after(Unwritable())
            after(Counted(n=1))
        await fx.flush(5)
        assert fx.stats().journal.committed == 1  # type: ignore[union-attr]
    assert [type(event) for event in given] == [Unwritable, Counted]
    assert caplog.text.count("cannot be written as JSON, so the journal cannot keep it") == 1


@pytest.mark.contract("J06")
@pytest.mark.parametrize("column", ["name", "site"])
def test_a_row_whose_texts_are_none_is_unreadable(column: str) -> None:
    """A disk has damaged it: it is a dead letter, and nobody after that has to mind."""
    row = EventRow(1, *stored(Effect(Counted(n=1)), []))
    with pytest.raises(ValueError, match="no text"):
        restored(row._replace(**{column: b"file.py:1"}), 0)


class Guarded(Event, kind="journal_test.guarded"):
    """One of its fields has no JSON."""

    n: int = 0
    secret: Any = None


@pytest.mark.anyio
async def test_a_sink_that_may_not_see_what_cannot_be_stored_has_the_rest_on_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one has it from memory."""
    redacting = SinkOptions(delivery="journal", redact=["secret"])
    plain = SinkOptions(delivery="journal", max_event_bytes=None)

    async def a(event: Guarded) -> None:
        assert event.n == 1

    async def b(event: Guarded) -> None:
        assert event.n == 1

    async with journaled(tmp_path, lanes={"a": redacting, "b": plain}, a=a, b=b) as fx:
        async with fx.scope():
            after(Guarded(n=1, secret=object()))
        await fx.flush(5)
        stats = fx.stats()
        assert stats.journal.committed == 1  # type: ignore[union-attr]
        assert (stats.sinks["a"].delivered, stats.sinks["b"].delivered) == (1, 1)
    assert "it is delivered from memory" in caplog.text
