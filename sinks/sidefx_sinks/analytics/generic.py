"""A plain JSON batch, for a collector of one's own: `{"batch": [{"id", "event", ...}]}`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sidefx import TrackEvent
from sidefx_sinks.analytics.chunk import Frame, around
from sidefx_sinks.analytics.preset import Preset, Visit, timestamp, without_none


def _item(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    consent = {} if event.consent is None else {"consent": event.consent}
    return {
        "id": str(event.id),
        "event": event.event,
        "user_id": event.user_id,
        "anonymous_id": event.anonymous_id,
        "properties": event.properties,
        "context": without_none(**visit._asdict()) | event.context,
        "timestamp": timestamp(event.at),
    } | consent


def _frame(_shared: Mapping[str, Any], _key: str, _sent_at: datetime) -> Frame:
    return around({}, "batch")


GENERIC = Preset(name="json", path="", url=None, item=_item, frame=_frame)
