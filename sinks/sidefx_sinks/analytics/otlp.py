"""OpenTelemetry logs: OTLP over HTTP in its JSON encoding, `POST /v1/logs`.

https://opentelemetry.io/docs/specs/otlp/#otlphttp, and the proto files that it names; the attributes'
names are those of https://opentelemetry.io/docs/specs/semconv/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic_core import from_json

from sidefx import TrackEvent
from sidefx_sinks._http import Answer
from sidefx_sinks.analytics.chunk import Frame, encode, plain
from sidefx_sinks.analytics.preset import ACCEPTED, VERSION, Preset, RefusedError, Verdict, Visit, without_none

_INFO = 9  # SeverityNumber
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_INT64 = range(-(2**63), 2**63)


def otlp(resource: Mapping[str, str] | None) -> Preset:
    """The preset of one service, named by its resource's attributes."""
    attributes = {"service.name": "unknown_service"} | dict(resource or {})
    scope = {"resource": {"attributes": _attributes(attributes)}}
    head = encode(scope)[:-1] + b',"scopeLogs":[{"scope":' + encode({"name": "sidefx", "version": VERSION})
    frame = Frame(b'{"resourceLogs":[' + head + b',"logRecords":[', b"]}]}]}")

    def framed(_shared: Mapping[str, Any], _key: str, _sent_at: datetime) -> Frame:
        return frame

    return Preset(
        name="otlp",
        path="/v1/logs",
        url="http://localhost:4318",
        item=_record,
        frame=framed,
        verdict=_verdict,
        later=frozenset({429, 502, 503, 504}),
        probe=("/v1/logs", b'{"resourceLogs":[]}'),
        max_batch_bytes=4 * 1024 * 1024,  # what gRPC servers take, to which collectors often pass it on
    )


def _record(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    nanos = str((event.at - _EPOCH) // timedelta(microseconds=1) * 1_000)
    seen = without_none(
        **{
            "client.address": visit.ip,
            "user_agent.original": visit.user_agent,
            "url.path": visit.path,
        }
    )
    own = without_none(
        **{
            "log.record.uid": str(event.id),  # what receivers drop duplicates by
            "user.id": event.user_id,
            "sidefx.anonymous_id": event.anonymous_id,
        }
    )
    record = {
        "timeUnixNano": nanos,
        "observedTimeUnixNano": nanos,
        "severityNumber": _INFO,
        "severityText": "INFO",
        "eventName": event.event,
        "body": {"stringValue": event.event},
        "attributes": _attributes(plain(seen | event.context | event.properties | own)),
    }
    return record | _trace(event)


def _trace(event: TrackEvent) -> dict[str, Any]:
    """Of the request's `traceparent`, https://www.w3.org/TR/trace-context/."""
    traceparent = event.request.traceparent if event.request is not None else None
    if (found := _TRACEPARENT.match(traceparent or "")) is None:
        return {}
    trace, span, flags = found.groups()
    return {"traceId": trace, "spanId": span, "flags": int(flags, 16)}


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in values.items()]


def _any_value(value: Any) -> dict[str, Any]:  # noqa: PLR0911 - a line for each type that JSON has
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)} if value in _INT64 else {"stringValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_any_value(each) for each in value]}}
        case dict():
            return {"kvlistValue": {"values": _attributes(value)}}
        case _:
            return {"stringValue": str(value)}


def _verdict(answer: Answer, ids: Sequence[UUID]) -> Verdict:
    """A partial success says how many records were refused, never which; they must not be sent again."""
    rejected = _rejected(answer.body)
    if rejected >= len(ids) and ids:
        refusal = RefusedError("the receiver refuses it, by a partial success: its own log says why", reason="refused")
        return Verdict(dict.fromkeys(ids, refusal))
    return Verdict(unknown=rejected) if rejected else ACCEPTED


def _rejected(body: bytes | None) -> int:
    try:
        answered = from_json(body or b"")
        partial = answered["partialSuccess"]
        return max(int(partial["rejectedLogRecords"]), 0)  # an int64 is a string in this encoding
    except (ValueError, TypeError, KeyError):
        return 0
