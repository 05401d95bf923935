"""sidefx: side effects after the response."""

from sidefx.dead_letters import DeadLetter
from sidefx.errors import (
    AttemptTimeout,
    JournalError,
    MissingExtraError,
    NotRunningError,
    PartialError,
    PermanentError,
    ResponseOverError,
    SidefxError,
    SinkContractError,
    SinkStartError,
    TransientError,
)
from sidefx.events import (
    Attachment,
    AuditEvent,
    EmailEvent,
    Event,
    InvalidateEvent,
    TrackEvent,
    UnknownKindError,
    audit,
    email,
    event_from_json,
    invalidate,
    track,
)
from sidefx.options import (
    BatchOptions,
    BreakerOptions,
    BufferOptions,
    CallableOptions,
    JournalOptions,
    RateLimit,
    RetryOptions,
    RuntimeOptions,
    SinkOptions,
)
from sidefx.problems import ConfigError, Problem
from sidefx.request import RequestInfo
from sidefx.runtime import SideEffects
from sidefx.scope import after, request
from sidefx.settled import Settled
from sidefx.stats import Health, JournalStats, SinkStats, Stats

__all__ = [
    "Attachment",
    "AttemptTimeout",
    "AuditEvent",
    "BatchOptions",
    "BreakerOptions",
    "BufferOptions",
    "CallableOptions",
    "ConfigError",
    "DeadLetter",
    "EmailEvent",
    "Event",
    "Health",
    "InvalidateEvent",
    "JournalError",
    "JournalOptions",
    "JournalStats",
    "MissingExtraError",
    "NotRunningError",
    "PartialError",
    "PermanentError",
    "Problem",
    "RateLimit",
    "RequestInfo",
    "ResponseOverError",
    "RetryOptions",
    "RuntimeOptions",
    "Settled",
    "SideEffects",
    "SidefxError",
    "SinkContractError",
    "SinkOptions",
    "SinkStartError",
    "SinkStats",
    "Stats",
    "TrackEvent",
    "TransientError",
    "UnknownKindError",
    "after",
    "audit",
    "email",
    "event_from_json",
    "invalidate",
    "request",
    "track",
]
