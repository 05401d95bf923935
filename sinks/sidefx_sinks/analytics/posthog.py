"""PostHog's capture API: `POST /batch/`, and `POST /i/v1/analytics/events`, whose answer speaks of each event.

https://posthog.com/docs/api/capture, and for the second https://github.com/PostHog/posthog-python (capture_v1.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic_core import from_json

from sidefx import TrackEvent, TransientError
from sidefx_sinks._http import Answer
from sidefx_sinks.analytics.chunk import Frame, around
from sidefx_sinks.analytics.preset import (
    ACCEPTED,
    VERSION,
    Preset,
    RefusedError,
    Verdict,
    Visit,
    timestamp,
    without_none,
)

_SDK = f"sidefx/{VERSION}"
_DETAIL = re.compile(r"[a-z0-9_]{1,64}")

# Properties that the second API has as fields of their own; a value of another type would refuse the whole batch.
_FIELDS = {"$session_id": "session_id", "$window_id": "window_id"}
_OPTIONS: dict[str, tuple[str, type]] = {
    "$cookieless_mode": ("cookieless_mode", bool),
    "$ignore_sent_at": ("disable_skew_correction", bool),
    "$process_person_profile": ("process_person_profile", bool),
    "$product_tour_id": ("product_tour_id", str),
}


def _item(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    return {
        "uuid": str(event.id),  # what PostHog drops duplicates by
        "event": event.event,
        "distinct_id": event.user_id or event.anonymous_id,
        # PostHog knows no context: it becomes properties, and the event's own properties win.
        "properties": {"$lib": "sidefx", "$lib_version": VERSION} | _properties(event, visit),
        "timestamp": timestamp(event.at),
    }


def _properties(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    facts: dict[str, Any] = {"$ip": visit.ip, "$useragent": visit.user_agent, "$pathname": visit.path}
    # Without the visitor's address PostHog would take this server's, and place all visitors in its data centre.
    facts |= {"$geoip_disable": None if visit.ip else True, "$is_server": True}
    return without_none(**facts) | event.context | event.properties


def _frame(_shared: Mapping[str, Any], key: str, sent_at: datetime) -> Frame:
    return around({"api_key": key, "historical_migration": False, "sent_at": timestamp(sent_at)}, "batch")


def _item_v1(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    properties = _properties(event, visit)
    fields = {name: properties.pop(key, None) for key, name in _FIELDS.items()}
    options = {name: (properties.pop(key, None), wanted) for key, (name, wanted) in _OPTIONS.items()}
    return _item(event, visit) | {
        "properties": properties,
        "options": {name: value for name, (value, wanted) in options.items() if isinstance(value, wanted)},
        **{name: value for name, value in fields.items() if isinstance(value, str)},
    }


def _frame_v1(_shared: Mapping[str, Any], _key: str, sent_at: datetime) -> Frame:
    return around({"created_at": timestamp(sent_at)}, "batch")


def _headers_v1() -> Mapping[str, str]:
    # Each call of the sink is an attempt of its own: which one it is, the lane knows.
    return {
        "PostHog-Sdk-Info": _SDK,
        "PostHog-Attempt": "1",
        "PostHog-Request-Id": str(uuid4()),
        "PostHog-Request-Timestamp": timestamp(datetime.now(UTC)),
    }


def _verdict(answer: Answer, ids: Sequence[UUID]) -> Verdict:
    """What it says of each event; one of which it says nothing is accepted, as in PostHog's own client."""
    if (results := _results(answer.body)) is None:
        return ACCEPTED
    failures: dict[UUID, Exception] = {}
    for id_ in ids:
        found = results.get(str(id_))
        result, detail = (found.get("result"), found.get("details")) if isinstance(found, dict) else (None, None)
        # Only a plain word is repeated: the rest could be anything.
        why = f" ({detail})" if isinstance(detail, str) and _DETAIL.fullmatch(detail) else ""
        if result == "retry":
            failures[id_] = TransientError(f"PostHog asks for this event again{why}", retry_after=answer.retry_after)
        elif result == "drop":
            failures[id_] = RefusedError(f"PostHog drops this event{why}", reason="refused")
    return Verdict(failures)


def _verdict_v1(answer: Answer, ids: Sequence[UUID]) -> Verdict:
    if _results(answer.body) is None:
        msg = f"PostHog answered {answer.status} without results: check that url is a PostHog that has this API"
        error = TransientError(msg, retry_after=answer.retry_after)
        return Verdict(dict.fromkeys(ids, error))
    return _verdict(answer, ids)


def _results(body: bytes | None) -> dict[str, Any] | None:
    try:
        answered = from_json(body or b"")
    except ValueError:
        return None
    results = answered.get("results") if isinstance(answered, dict) else None
    return results if isinstance(results, dict) else None


POSTHOG = Preset(
    name="posthog",
    path="/batch/",
    url="https://us.i.posthog.com",
    item=_item,
    frame=_frame,
    verdict=_verdict,
    auth="body",
    max_event_bytes=900 * 1024,
    max_batch_bytes=5 * 1024 * 1024,
)

POSTHOG_V1 = Preset(
    name="posthog_v1",
    path="/i/v1/analytics/events",
    url="https://us.i.posthog.com",
    item=_item_v1,
    frame=_frame_v1,
    headers=_headers_v1,
    verdict=_verdict_v1,
    auth="bearer",
    max_event_bytes=900 * 1024,
    max_batch_bytes=5 * 1024 * 1024,
    max_batch_events=1_000,  # so that the results of all of them stay below what is read of an answer
)
