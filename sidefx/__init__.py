"""sidefx: side effects after the response."""

from sidefx.errors import (
    AttemptTimeout,
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
