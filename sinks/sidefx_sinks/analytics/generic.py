"""A plain JSON batch, for a collector of one's own: `{"batch": [{"id", "event", ...}]}`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sidefx import TrackEvent
from sidefx_sinks.analytics.preset import Preset, Visit, timestamp, without_none


def _item(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    return {
        "id": str(event.id),
        "event": event.event,
        "user_id": event.user_id,
        "anonymous_id": event.anonymous_id,
        "properties": event.properties,
        "context": without_none(**visit._asdict()) | event.context,
        "timestamp": timestamp(event.at),
    }


def _envelope(_key: str, _sent_at: datetime) -> dict[str, Any]:
    return {}


GENERIC = Preset(path="", url=None, item=_item, envelope=_envelope, needs_key=False)
