"""Events: validated, frozen, named, and JSON both ways."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from sidefx import (
    Attachment,
    AuditEvent,
    EmailEvent,
    Event,
    InvalidateEvent,
    RequestInfo,
    TrackEvent,
    UnknownKindError,
    audit,
    email,
    event_from_json,
    invalidate,
    track,
)
from sidefx.events import kinds, uuid7

T = TypeVar("T")


class HTTPServerDown(Event):
    """Named after itself."""


class Priced(Event, kind="test.priced"):
    """With a value that JSON does not have."""

    total: Decimal
    when: datetime | None = None


class Open(Event, kind="test.open"):
    """With whatever fields it is given."""

    model_config = ConfigDict(extra="allow")


class Labelled(Event, kind="test.labelled"):
    """With a field that is made of another."""

    number: str

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def shown(self) -> str:
        return f"card {self.number}"


def test_a_kind_is_the_class_in_snake_case_unless_given() -> None:
    """The built-in ones are `audit`, `track`, `email` and `invalidate`."""
    assert HTTPServerDown.kind == "http_server_down"
    assert Priced.kind == "test.priced"
    built_in = [AuditEvent, TrackEvent, EmailEvent, InvalidateEvent]
    assert [event.kind for event in built_in] == ["audit", "track", "email", "invalidate"]
    assert kinds()["test.priced"] is Priced


def test_a_kind_belongs_to_one_class() -> None:
    """The second class of a kind is refused, naming both."""
    with pytest.raises(TypeError, match=r"test\.priced.*Priced"):

        class Another(Event, kind="test.priced"):
            pass

    assert kinds()["test.priced"] is Priced


def test_a_module_that_is_reloaded_may_define_its_events_again() -> None:
    """The same name in the same module is the same class."""

    def define() -> type[Event]:
        class Reloaded(Event, kind="test.reloaded"):
            pass

        return Reloaded

    first, second = define(), define()
    assert first is not second
    assert kinds()["test.reloaded"] is second


@pytest.mark.parametrize("kind", ["Order.Placed", "order placed", "order..placed", "order\nplaced", "*"])
def test_a_kind_is_a_wire_name(kind: str) -> None:
    """Lower-case words with dots, nothing that could upset a log line or a pattern."""
    with pytest.raises(TypeError, match="wire name"):
        type("Odd", (Event,), {"__module__": __name__}, kind=kind)


@pytest.mark.parametrize("name", ["id", "at", "request"])
def test_the_fields_of_every_event_are_reserved(name: str) -> None:
    """A field of that name would mean something else to the lanes."""
    with pytest.raises(TypeError, match=f"{name} is reserved"):
        type("Taken", (Event,), {"__module__": __name__, "__annotations__": {name: int}})


def test_a_generic_event_keeps_the_kind_of_its_origin() -> None:
    """Parametrising it defines no new kind."""

    class Wrapped(Event, Generic[T], kind="test.wrapped"):
        value: T

    assert Wrapped[int].kind == "test.wrapped"
    assert Wrapped[int](value=3).model_dump_json()


def test_an_event_is_frozen_and_validated() -> None:
    """Nobody changes what has happened."""
    event = Priced(total=Decimal("1.50"))
    with pytest.raises(ValidationError):
        event.total = Decimal(2)  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Priced(total="much")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Priced(total=Decimal(1), tax=2)  # type: ignore[call-arg]


def test_every_event_has_an_id_and_a_time() -> None:
    """A UUIDv7 that sorts by the time of its making, and an aware time in UTC."""
    events = [HTTPServerDown() for _ in range(1_000)]
    assert all(event.id.version == 7 and event.id.variant == uuid.RFC_4122 for event in events)
    assert len({event.id for event in events}) == 1_000
    assert events[0].at.tzinfo is UTC
    assert abs(datetime.now(UTC).timestamp() * 1_000 - (uuid7().int >> 80)) < 5_000
    milliseconds = [event.id.int >> 80 for event in events]
    assert milliseconds == sorted(milliseconds)


EVERY_KIND = [
    audit("order.create", actor=7, target="order:1", changes={"total": [None, "12.50"]}, metadata={"a": [1]}),
    track("Order Completed", user_id=uuid.UUID(int=3), properties={"total": 12.5}),
    email(to="a@example.org", subject="Hi", text="x", attachments=[Attachment(filename="a.bin", content=b"\x00\xff")]),
    invalidate(tags=["user:1", "orders"], keys="k"),
    Priced(total=Decimal("12.50"), when=datetime(2026, 1, 2, tzinfo=UTC)),
]


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: event.kind)
def test_an_event_goes_to_json_and_back(event: Event) -> None:
    """What comes back is equal, bytes and decimals included."""
    assert event_from_json(event.kind, event.model_dump_json()) == event


def test_values_that_json_does_not_have_are_written_down() -> None:
    """In open fields they become what pydantic makes of them."""
    event = audit(
        "x", metadata={"total": Decimal("1.5"), "at": datetime(2026, 1, 2, tzinfo=UTC), "id": uuid.UUID(int=1)}
    )
    again = event_from_json("audit", event.model_dump_json())
    assert isinstance(again, AuditEvent)
    assert again.metadata == {"total": "1.5", "at": "2026-01-02T00:00:00Z", "id": str(uuid.UUID(int=1))}


def test_an_unknown_kind_is_an_error_of_its_own() -> None:
    """It names the kind."""
    with pytest.raises(UnknownKindError, match="nobody"):
        event_from_json("nobody.knows", "{}")


def test_identifiers_may_be_numbers_and_uuids() -> None:
    """As the keys of a database are; a boolean is a mistake."""
    assert audit("x", actor=5, target=uuid.UUID(int=5)).actor == "5"
    with pytest.raises(ValidationError):
        audit("x", actor=True)
    with pytest.raises(ValidationError):
        audit("x", actor=5.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: audit(""), "at least 1 character"),
        (lambda: track("x"), "user_id or anonymous_id"),
        (lambda: track("x", user_id=""), "user_id or anonymous_id"),
        (lambda: email(subject="x", text="x"), "at least one recipient"),
        (lambda: email(to="a@example.org", subject="x"), "text, html or template"),
        (invalidate, "nothing to invalidate"),
    ],
)
def test_a_mistake_of_form_is_an_error_at_the_call(make: Any, said: str) -> None:
    """It says what is missing."""
    with pytest.raises(ValidationError, match=said):
        make()


def test_one_string_may_stand_for_several() -> None:
    """`to="a@b"` is one address and not three letters."""
    assert email(to="a@b", subject="x", text="x").to == ("a@b",)
    assert invalidate(keys="abc", tags={"t"}).keys == ("abc",)


def test_what_may_be_private_is_not_in_the_repr() -> None:
    """Bodies, template values and attachments may hold anything."""
    event = email(
        to="a@b",
        subject="s",
        text="SECRET",
        html="SECRET",
        context={"token": "SECRET"},
        attachments=[Attachment(filename="f", content=b"SECRET")],
    )
    assert "SECRET" not in repr(event)


def test_a_copy_of_an_event_has_all_that_the_event_has() -> None:
    """Extra fields too; and private attributes of its own."""

    class Private(Event, kind="test.private"):
        _seen: int = 0

    event = Open(colour="red")  # type: ignore[call-arg]
    assert event._with(request=RequestInfo(request_id="r")).model_dump()["colour"] == "red"
    one = Private()
    two = one._with(request=None)
    two._seen = 5
    assert one._seen == 0


def test_a_kind_is_given_in_one_way() -> None:
    """A field or an attribute of that name would be ignored, or show a user's data as the kind."""
    with pytest.raises(TypeError, match="kind"):

        class Attribute(Event):
            kind = "test.attribute"

    with pytest.raises(TypeError, match="kind"), pytest.warns(UserWarning, match="shadows"):

        class Declared(Event):
            kind: str = "x"  # type: ignore[misc]


def test_computed_fields_go_to_json_and_are_made_anew() -> None:
    """A class that forbids extra fields reads its own JSON."""
    event = Labelled(number="4111")
    again = event_from_json("test.labelled", event.model_dump_json())
    assert isinstance(again, Labelled)
    assert (again.id, again.shown) == (event.id, "card 4111")


def test_fields_with_an_alias_go_to_json_and_back() -> None:
    """By their names."""

    class Aliased(Event, kind="test.aliased"):
        order_id: int = Field(alias="orderId")
        parts: list[BaseModel] = Field(default_factory=list)

    event = Aliased(orderId=5)
    assert event_from_json("test.aliased", event.model_dump_json()) == event
