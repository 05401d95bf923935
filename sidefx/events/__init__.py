"""Events: what happened, as data."""

from sidefx.events.builtin import (
    Attachment,
    AuditEvent,
    EmailEvent,
    InvalidateEvent,
    TrackEvent,
    audit,
    email,
    invalidate,
    track,
)
from sidefx.events.event import Event, UnknownKindError, event_from_json, kinds
from sidefx.events.ids import uuid7

__all__ = [
    "Attachment",
    "AuditEvent",
    "EmailEvent",
    "Event",
    "InvalidateEvent",
    "TrackEvent",
    "UnknownKindError",
    "audit",
    "email",
    "event_from_json",
    "invalidate",
    "kinds",
    "track",
    "uuid7",
]
