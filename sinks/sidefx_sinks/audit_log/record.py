"""An `AuditEvent` as the record that is stored of it: every column as the text that is hashed."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json as _json_bytes

from sidefx import PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidefx import AuditEvent

Record = dict[str, Any]
"""A record by column name; absent values are None. All are text, but `chain_seq`: `id` is a UUID with hyphens, `at`
ends in Z, `changes` and `metadata` are JSON."""

COLUMNS = (
    "action", "actor", "actor_label", "at", "chain", "chain_seq", "changes", "id", "ip", "metadata", "outcome",
    "prev_hash", "reason", "request_id", "target", "target_label", "tenant", "trace_id", "user_agent",
)  # fmt: skip
"""What is hashed, in the order in which RFC 8785 writes it."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # PostgreSQL refuses NUL; a lone surrogate is no character
_TRACE_ID = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-")
_GIVEN = ("action", "actor", "actor_label", "target", "target_label", "outcome", "reason", "tenant")
_ESCAPED_NUL = "\\u0000"
_KEYS = tuple(f'"{name}":' for name in COLUMNS)
_WRITERS = tuple(str if name == "chain_seq" else _quoted for name in COLUMNS)


def record_of(event: AuditEvent) -> tuple[Record, int]:
    """The record, still without its place in a chain, and its size in bytes.

    NUL and lone surrogates become U+FFFD on every database, so that a record reads the same everywhere.

    Raises:
        PermanentError: `changes` or `metadata` holds what has no JSON form.
    """
    try:
        record = _quickly(event)
        size = None if record is None else _size(record)
        if record is None or size is None:
            record = _carefully(event)
            size = len("".join(filter(None, record.values())).encode())
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        msg = (
            f"the record cannot be written as JSON ({type(error).__name__}): "
            "changes and metadata take what pydantic can write as JSON"
        )
        raise PermanentError(msg) from None  # the cause may quote the record
    return record, size


def canonical(values: tuple[Any, ...]) -> str:
    """The values of `COLUMNS` as one JSON object in the canonical form of RFC 8785; None is left out.

    Its keys are in order and plain, its values strings (escaped as `json` does it) and one small integer: that is all
    that the canonical form asks for here.
    """
    pairs = zip(_KEYS, _WRITERS, values)  # noqa: B905 - of one length; checking it costs a tenth
    return "{" + ",".join([key + write(value) for key, write, value in pairs if value is not None]) + "}"


def timestamp(at: datetime) -> str:
    """In UTC, to the microsecond: `2026-03-29T03:30:00.123457Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def to_json(value: object) -> str:
    """Compact, with letters as they are, so that a search in the column finds them."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _quickly(event: AuditEvent) -> Record | None:
    """The record where its values are as they should be, which is nearly always."""
    try:
        return _record(
            event,
            vars(event),
            None if event.changes is None else _json_bytes(event.changes, inf_nan_mode="null").decode(),
            _json_bytes(event.metadata, inf_nan_mode="null").decode(),
        )
    except (ValueError, TypeError):
        return None


def _size(record: Record) -> int | None:
    """In bytes; None where something in it needs a second look."""
    texts = [value for value in record.values() if value is not None]
    if set(map(type, texts)) != {str}:
        return None
    text = "".join(texts)
    plain = text.isascii()
    if _ESCAPED_NUL in text or ("\0" in text if plain else _UNSTORABLE.search(text)):
        return None
    return len(text) if plain else len(text.encode())


def _carefully(event: AuditEvent) -> Record:
    # a lane that redacts puts in values of other types
    given = event.model_dump(mode="json", include={*_GIVEN, "changes", "metadata"}, warnings=False)
    changes = None if given["changes"] is None else to_json(_storable(given["changes"]))
    record = _record(event, given, changes, to_json(_storable(given["metadata"])))
    return {name: _storable(value) for name, value in record.items()}


def _record(event: AuditEvent, given: Mapping[str, Any], changes: str | None, metadata: str) -> Record:
    request = event.request
    traced = request and request.traceparent and _TRACE_ID.match(request.traceparent)
    return {
        "action": given["action"],
        "actor": given["actor"],
        "actor_label": given["actor_label"],
        "at": timestamp(event.at),
        "changes": changes,
        "id": str(event.id),
        "ip": request and request.client and request.client.host,
        "metadata": metadata,
        "outcome": given["outcome"],
        "reason": given["reason"],
        "request_id": request and request.request_id,
        "target": given["target"],
        "target_label": given["target_label"],
        "tenant": given["tenant"],
        "trace_id": traced[1] if traced else None,
        "user_agent": request and request.user_agent,
    }


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
