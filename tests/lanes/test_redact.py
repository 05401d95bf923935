"""What a sink must not see, it does not see."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field

from sidefx import (
    AuditEvent,
    ConfigError,
    Event,
    PermanentError,
    RequestInfo,
    Settled,
    SideEffects,
    SinkOptions,
    after,
    audit,
)
from sidefx.lanes.redact import MASK, Redactor
from sidefx.request import Client

pytestmark = pytest.mark.anyio


class Card(BaseModel):
    """A part of an event."""

    number: str
    limit: int | None = 5


class Paid(Event, kind="test.paid"):
    """An event with parts."""

    amount: int
    card: Card
    notes: tuple[str, ...] = ()


class Charged(Event, kind="test.charged"):
    """An event with a value made of a secret one."""

    number: str

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def shown(self) -> str:
        return f"card {self.number}"


class Extended(Event, kind="test.extended"):
    """An event with fields that its class does not declare."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Account:
    """Not a pydantic model."""

    iban: str


class Pair(NamedTuple):
    """A tuple with names."""

    key: str
    value: str


class Loose(Event, kind="test.loose"):
    """An event that holds all sorts."""

    account: Account
    pair: Pair
    words: frozenset[str]
    anything: dict[str, Any] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("metadata.password", {"metadata": {"password": MASK, "deep": [{"token": "t1"}, {"token": "t2"}]}}),
        ("metadata.deep.*.token", {"metadata": {"password": "p", "deep": [{"token": MASK}, {"token": MASK}]}}),
        ("metadata.deep.1.token", {"metadata": {"password": "p", "deep": [{"token": "t1"}, {"token": MASK}]}}),
        ("metadata.*", {"metadata": {"password": MASK, "deep": MASK}}),
        ("metadata", {"metadata": {}}),
        ("actor", {"actor": MASK}),
        ("outcome", {"outcome": "success"}),
        ("metadata.nothing.here", {}),
        ("metadata.deep.7", {}),
    ],
)
def test_a_path_masks_what_it_names_and_nothing_else(path: str, changes: dict[str, Any]) -> None:
    """Fields, keys, indexes and `*` are parts of a path; the event itself stays as it was."""
    event = audit(
        "x", actor="ann", outcome="denied", metadata={"password": "p", "deep": [{"token": "t1"}, {"token": "t2"}]}
    )
    before = event.model_dump()
    redacted = Redactor([path])(event)
    assert redacted.model_dump() == {**before, **changes}
    assert event.model_dump() == before


def test_models_within_an_event_are_masked_too() -> None:
    """A declared field takes the mask, or None, or its default, and the JSON stays valid."""
    event = Paid(amount=1, card=Card(number="4111", limit=9), notes=("a", "b"))
    redacted = Redactor(["card.number", "card.limit", "notes"])(event)
    assert redacted.card == Card(number=MASK, limit=None)
    assert Paid.model_validate_json(redacted.model_dump_json()).id == event.id


def test_a_field_that_cannot_hold_a_mask_is_a_mistake_of_the_configuration() -> None:
    """It is found before any event is lost for it."""

    async def sink(event: Paid) -> None: ...

    with pytest.raises(ConfigError, match=r"sinks\.s\.redact\[0\].*Paid\.amount cannot be masked"):
        SideEffects({"s": sink}, {"s": SinkOptions(redact=("amount",))})


@pytest.mark.contract("L11")
async def test_a_redacted_value_reaches_neither_sink_nor_log_nor_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    """Not even where the sink fails and quotes what it was given."""
    seen: list[str] = []

    async def quoting(event: AuditEvent) -> None:
        seen.append(event.model_dump_json())
        message = f"cannot take {event!r}"
        raise PermanentError(message)

    async def whole(event: AuditEvent) -> None:
        seen.append(event.model_dump_json())

    options = {"q": SinkOptions(redact=("metadata.password",), fallback="w"), "w": SinkOptions(events=())}
    async with SideEffects({"q": quoting, "w": whole}, options) as fx:
        with caplog.at_level(logging.DEBUG):
            await fx.emit(audit("x", metadata={"password": "hunter2", "kept": "yes"}))
            await fx.flush()
        [letter] = fx.dead_letters
        assert "hunter2" not in letter.event.model_dump_json() + letter.reason + letter.error + repr(letter)
    assert "hunter2" not in caplog.text
    assert "hunter2" not in seen[0]
    assert "yes" in seen[0]
    assert "hunter2" in seen[1]  # the fallback has a redaction of its own, which is none


@pytest.mark.contract("L11")
def test_redaction_reaches_whatever_holds_a_value() -> None:
    """Cached properties, extra fields, dataclasses, named tuples and sets."""
    charged = Charged(number="4111")
    assert charged.shown == "card 4111"
    assert "4111" not in Redactor(["number"])(charged).model_dump_json()
    assert "4111" not in Redactor(["token"])(Extended(token="4111")).model_dump_json()  # type: ignore[call-arg]
    loose = Loose(
        account=Account("4111"),
        pair=Pair("k", "4111"),
        words=frozenset({"4111"}),
        anything={"deep": Account("4111"), "pairs": [Pair("k", "4111")]},
    )
    paths = ["account.iban", "pair.value", "words.*", "anything.deep.iban", "anything.pairs.*.value"]
    masked = Redactor(paths)(loose)
    assert "4111" not in masked.model_dump_json()
    assert masked.pair == Pair("k", MASK)
    assert loose.model_dump_json().count("4111") == 5


@pytest.mark.contract("L11")
def test_redaction_of_the_request_changes_no_other_sinks_request() -> None:
    """The request is one object for all its effects; a sink that must not see a part gets a copy."""
    request = RequestInfo(request_id="r", user_agent="agent", client=Client("192.0.2.1", 80))
    event = audit("x")._with(request=request)
    masked = Redactor(["request.user_agent", "request.client.host"])(event)
    assert masked.request is not None
    assert (masked.request.user_agent, masked.request.client) == (MASK, (MASK, 80))
    assert (request.user_agent, request.client) == ("agent", ("192.0.2.1", 80))


def test_redaction_of_everything_keeps_events_apart() -> None:
    """`*` leaves the id and the time, and gives each event a mask of its own."""
    one, two = (Redactor(["*"])(audit("x", metadata={"a": 1})) for _ in range(2))
    assert one.id != two.id
    assert one.metadata == {}
    assert one.metadata is not two.metadata


@pytest.mark.contract("L11")
async def test_a_dropped_event_is_shown_to_observers_as_the_sink_would_have_seen_it() -> None:
    """Filtered and sampled ones too."""
    records: list[Settled] = []

    async def audits(event: AuditEvent) -> None: ...

    options = SinkOptions(sample=0.0, redact=("metadata.password",))
    async with SideEffects({"s": audits}, {"s": options}, observers=[records.append]) as fx:
        after(audit("x", metadata={"password": "hunter2"}))
        await fx.flush(5)
    assert records[0].reason == "sampled"
    assert "hunter2" not in repr(records)


@pytest.mark.contract("L11")
async def test_a_predicate_that_quotes_the_event_tells_the_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It sees the whole event; where something is redacted, its error's text is withheld and the event kept masked."""

    async def audits(event: AuditEvent) -> None: ...

    def predicate(event: AuditEvent) -> bool:
        message = f"cannot judge {event!r}"
        raise ValueError(message)

    options = SinkOptions(filter=predicate, redact=("metadata.password",))
    async with SideEffects({"s": audits}, {"s": options}) as fx:
        after(audit("x", metadata={"password": "hunter2"}))
        await fx.flush(5)
        [letter] = fx.dead_letters
    assert "ValueError" in letter.reason
    assert letter.event.model_dump()["metadata"] == {"password": MASK}
    assert "hunter2" not in caplog.text + letter.reason + letter.error
