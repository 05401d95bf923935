"""Segment's HTTP Tracking API: `POST /v1/batch`.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sidefx import TrackEvent
from sidefx_sinks.analytics.preset import Preset, Visit, timestamp, without_none


def _item(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    seen = without_none(ip=visit.ip, userAgent=visit.user_agent, page=visit.path and {"path": visit.path})
    return without_none(
        type="track",
        messageId=str(event.id),  # what Segment drops duplicates by
        event=event.event,
        userId=event.user_id,
        anonymousId=event.anonymous_id,
        properties=event.properties,
        context={"library": {"name": "sidefx"}} | seen | event.context,
        timestamp=timestamp(event.at),
    )


def _envelope(_key: str, sent_at: datetime) -> dict[str, Any]:
    return {"sentAt": timestamp(sent_at)}  # Segment corrects a wrong clock of ours by it


SEGMENT = Preset(
    path="/v1/batch",
    url="https://api.segment.io",
    item=_item,
    envelope=_envelope,
    needs_key=True,
    basic_auth=True,
    max_event_bytes=32 * 1024,
    max_batch_bytes=500_000,
    max_batch_events=2_500,
)
