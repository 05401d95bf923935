"""An `AuditEvent` as the row that is stored of it."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC
from typing import TYPE_CHECKING, Any

from sidefx import PermanentError

if TYPE_CHECKING:
    from sidefx import AuditEvent

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # PostgreSQL refuses NUL; a lone surrogate is no character
_TRACE_ID = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-")


def record_of(event: AuditEvent) -> tuple[dict[str, Any], int]:
    """The row by column name, and its size as JSON in bytes.

    NUL and lone surrogates become U+FFFD on every database, so that a record reads the same everywhere.

    Raises:
        PermanentError: `changes` or `metadata` holds what has no JSON form.
    """
    request = event.request
    traced = _TRACE_ID.match((request and request.traceparent) or "")
    try:
        row: dict[str, Any] = _storable(
            event.model_dump(
                mode="json",
                include={"action", "actor", "target", "outcome", "reason", "changes", "tenant", "metadata"},
                warnings=False,  # a lane that redacts puts in values of other types
            )
            | {
                "request_id": request and request.request_id,
                "trace_id": traced and traced[1],
                "ip": request and request.client and request.client.host,
                "user_agent": request and request.user_agent,
            }
        )
        size = len(to_json(row).encode())
        return {"id": event.id, "at": event.at.astimezone(UTC), **row}, size
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        msg = (
            f"the record cannot be written as JSON ({type(error).__name__}): "
            "changes and metadata take what pydantic can write as JSON"
        )
        raise PermanentError(msg) from None  # the cause may quote the record


def to_json(value: object) -> str:
    """Compact, with letters as they are, so that a search in the column finds them."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _storable(value: Any) -> Any:
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list():
            return [_storable(item) for item in value]
        case float() if not math.isfinite(value):
            return None  # as in the event's own JSON
        case _:
            return value
