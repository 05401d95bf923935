"""Events: what happened, as data."""

from sidefx.events.audit_event import AuditEvent, audit
from sidefx.events.changes import changes
from sidefx.events.email_event import Attachment, EmailEvent, email
from sidefx.events.event import Event, UnknownKindError, event_from_json, kinds
from sidefx.events.ids import uuid7
from sidefx.events.invalidate_event import InvalidateEvent, invalidate
from sidefx.events.track_event import TrackEvent, track

__all__ = [
    "Attachment",
    "AuditEvent",
    "EmailEvent",
    "Event",
    "InvalidateEvent",
    "TrackEvent",
    "UnknownKindError",
    "audit",
    "changes",
    "email",
    "event_from_json",
    "invalidate",
    "kinds",
    "track",
    "uuid7",
]
