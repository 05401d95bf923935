"""What a sink must not see, it does not see."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from sidefx import AuditEvent, ConfigError, Event, PermanentError, SideEffects, SinkOptions, audit
from sidefx.lanes.redact import MASK, Redactor

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
