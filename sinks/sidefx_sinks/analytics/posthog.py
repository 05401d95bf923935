"""PostHog's capture API: `POST /batch/`.

https://posthog.com/docs/api/capture
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sidefx import TrackEvent
from sidefx_sinks.analytics.preset import Preset, Visit, timestamp, without_none


def _item(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    return {
        "uuid": str(event.id),  # what PostHog drops duplicates by
        "event": event.event,
        "distinct_id": event.user_id or event.anonymous_id,
        # PostHog knows no context: it becomes properties, and the event's own properties win.
        "properties": _facts(visit) | event.context | event.properties,
        "timestamp": timestamp(event.at),
    }


def _facts(visit: Visit) -> dict[str, Any]:
    facts = {"$lib": "sidefx", "$ip": visit.ip, "$useragent": visit.user_agent, "$pathname": visit.path}
    # Without the visitor's address PostHog would take this server's, and place all visitors in its data centre.
    return without_none(**facts, **{"$geoip_disable": None if visit.ip else True})


def _envelope(key: str, sent_at: datetime) -> dict[str, Any]:
    return {"api_key": key, "historical_migration": False, "sent_at": timestamp(sent_at)}


POSTHOG = Preset(
    path="/batch/",
    url="https://us.i.posthog.com",
    item=_item,
    envelope=_envelope,
    needs_key=True,
    max_batch_bytes=5 * 1024 * 1024,
)
