"""Segment's HTTP Tracking API: `POST /v1/batch`.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sidefx import TrackEvent
from sidefx_sinks.analytics.chunk import Frame, around
from sidefx_sinks.analytics.preset import Preset, Visit, timestamp, without_none


def _item(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    return without_none(
        type="track",
        messageId=str(event.id),  # what Segment drops duplicates by
        event=event.event,
        userId=event.user_id,
        anonymousId=event.anonymous_id,
        properties=event.properties,
        context={"library": {"name": "sidefx"}} | _seen(event, visit) | event.context,
        timestamp=timestamp(event.at),
    )


def _seen(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    return without_none(
        ip=visit.ip,
        userAgent=visit.user_agent,
        page=visit.path and {"path": visit.path},
        # https://segment.com/docs/privacy/consent-management/consent-in-segment-connections/
        consent=None if event.consent is None else {"categoryPreferences": event.consent},
    )


def _frame(_shared: Mapping[str, Any], _key: str, sent_at: datetime) -> Frame:
    return around({"sentAt": timestamp(sent_at)}, "batch")  # Segment corrects a wrong clock of ours by it


SEGMENT = Preset(
    name="segment",
    path="/v1/batch",
    url="https://api.segment.io",
    item=_item,
    frame=_frame,
    auth="basic",
    max_event_bytes=32 * 1024,
    max_batch_bytes=500_000,
    max_batch_events=2_500,
)
