"""Google Analytics 4, Measurement Protocol for web streams: `POST /mp/collect`.

https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference, and
`sending-events` and `validating-events` beside it. GA4 answers 204 whatever it gets, and drops in
silence what breaks its rules; so what is known to break one is refused here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json

from sidefx import TrackEvent
from sidefx_sinks._http import Answer
from sidefx_sinks.analytics.chunk import Frame, around, plain
from sidefx_sinks.analytics.preset import Preset, RefusedError, Visit, without_none

_MEASUREMENT_ID = re.compile(r"G-[A-Z0-9]{4,16}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NAME = 40
_MAX_PARAMS = 25
_MAX_VALUE = 100
_LONGER_VALUES = {"page_title": 300, "page_referrer": 420, "page_location": 1_000}
_MAX_ITEMS = 200
_MAX_AGE = timedelta(hours=72)
"""Older events are counted as if they had happened 72 hours ago, on the wrong day."""
_MAX_USER_ID = 256

_RESERVED_PREFIXES = ("_", "firebase_", "ga_", "google_")  # the fifth, gtag., has a dot, which no name keeps
_RESERVED_NAMES = frozenset(
    {
        "ad_activeview",
        "ad_click",
        "ad_exposure",
        "ad_query",
        "ad_reward",
        "adunit_exposure",
        "app_background",
        "app_clear_data",
        "app_exception",
        "app_install",
        "app_remove",
        "app_store_refund",
        "app_store_subscription_cancel",
        "app_store_subscription_convert",
        "app_store_subscription_renew",
        "app_update",
        "app_upgrade",
        "app_uninstall",
        "dynamic_link_app_open",
        "dynamic_link_app_update",
        "dynamic_link_first_open",
        "error",
        "first_open",
        "first_visit",
        "notification_dismiss",
        "notification_foreground",
        "notification_open",
        "notification_receive",
        "notification_send",
        "os_update",
        "session_start",
        "user_engagement",
    }
)
_SESSION_ID = re.compile(r"[0-9]{1,100}")
_VALIDATION_CODE = re.compile(r"[A-Z_]{1,64}")
_FIELD_PATH = re.compile(r"[A-Za-z0-9_.\[\]]{1,100}")


def ga4(measurement_id: str | None) -> Preset:
    """The preset of one data stream.

    Raises:
        ValueError: there is no measurement id, or it is none.
    """
    if measurement_id is None or not _MEASUREMENT_ID.fullmatch(measurement_id):
        msg = "measurement_id: the preset ga4 needs the web stream's, such as G-ABC123XYZ9"
        raise ValueError(msg)
    return Preset(
        name="ga4",
        path="/mp/collect",
        url="https://www.google-analytics.com",
        item=_item,
        frame=_frame,
        shared=_user,
        auth="query",
        query={"measurement_id": measurement_id},
        key_parameter="api_secret",
        validation_path="/debug/mp/collect",
        findings=_findings,
        probe=("/debug/mp/collect", b'{"client_id":"1.1","events":[{"name":"sidefx_check","params":{}}]}'),
        max_batch_bytes=130_000,
        max_batch_events=25,
        parallel=8,  # a request is of one user, so a batch is many of them
    )


def _user(event: TrackEvent, visit: Visit) -> dict[str, Any]:
    user_id = event.user_id
    if user_id is not None and len(user_id) > _MAX_USER_ID:
        msg = f"GA4 takes at most {_MAX_USER_ID} characters as user_id"
        raise _invalid(msg)
    return without_none(
        client_id=event.anonymous_id or _client_id(user_id or ""),
        user_id=user_id,
        consent=_consent(event),
        ip_override=visit.ip,
        user_agent=visit.user_agent,
    )


def _client_id(user_id: str) -> str:
    """Of a user whose browser's is not known: always the same one, in the form that browsers have."""
    digest = hashlib.sha256(b"sidefx.ga4.client_id:" + user_id.encode()).digest()
    return f"{int.from_bytes(digest[:4])}.{int.from_bytes(digest[4:8])}"


def _consent(event: TrackEvent) -> dict[str, str] | None:
    given = event.consent or {}
    said = {name: given[name] for name in ("ad_user_data", "ad_personalization") if name in given}
    return {name: "GRANTED" if value else "DENIED" for name, value in said.items()} or None


def _item(event: TrackEvent, _visit: Visit) -> dict[str, Any]:
    if datetime.now(UTC) - event.at > _MAX_AGE:
        msg = "GA4 takes events of the last 72 hours: this one is older, and would be counted on another day"
        raise RefusedError(msg, reason="too old")
    return {
        "name": _event_name(event.event),
        "params": _params(event),
        "timestamp_micros": (event.at - _EPOCH) // timedelta(microseconds=1),
    }


def _event_name(name: str) -> str:
    written = _identifier(name)
    if written in _RESERVED_NAMES or written.startswith(_RESERVED_PREFIXES):
        msg = f"GA4 keeps the event name {written[:_MAX_NAME]} for itself: choose another"
        raise _invalid(msg)
    return _checked_name("event name", written)


def _params(event: TrackEvent) -> dict[str, Any]:
    """The properties, the session, and the event's id: GA4 drops no duplicates, but its export can be searched."""
    session = {name: event.context[name] for name in ("session_id", "engagement_time_msec") if name in event.context}
    if "session_id" in session:
        session.setdefault("engagement_time_msec", 1)  # without it, the event is in no real-time report
    given = {name: value for name, value in plain(session | event.properties).items() if value is not None}
    params = {_identifier(name): value for name, value in given.items()}
    if len(params) < len(given):
        msg = "two of its properties have the same name once GA4's rules are kept: rename one"
        raise _invalid(msg)
    if "session_id" in params and not _SESSION_ID.fullmatch(str(params["session_id"])):
        msg = "GA4 takes a session_id of digits alone, as the browser's tag has it"
        raise _invalid(msg)
    params.setdefault("event_id", str(event.id))
    if len(params) > _MAX_PARAMS:
        msg = f"GA4 takes {_MAX_PARAMS} parameters an event, and this one has {len(params)} with its event_id"
        raise _invalid(msg)
    return {_param_name(name): _value(name, value) for name, value in params.items()}


def _identifier(name: str) -> str:
    """With an underscore for each run of what GA4 has in no name: `Order Completed` becomes `Order_Completed`."""
    return re.sub(r"\W+", "_", name.strip())


def _param_name(name: str) -> str:
    if name.startswith(_RESERVED_PREFIXES):
        msg = f"GA4 keeps the parameter name {name[:_MAX_NAME]} for itself: choose another"
        raise _invalid(msg)
    return _checked_name("parameter name", name)


def _checked_name(what: str, name: str) -> str:
    if not name[:1].isalpha() or len(name) > _MAX_NAME:
        msg = f"GA4 takes as {what} a letter and up to {_MAX_NAME - 1} letters, digits and underscores"
        raise _invalid(msg)
    return name


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"  # as the browser's tag sends it: GA4 has text and numbers
    limit = _LONGER_VALUES.get(name, _MAX_VALUE)
    if isinstance(value, str) and len(value) > limit:
        msg = f"GA4 takes {limit} characters as the value of {name}: shorten it, in before_send if need be"
        raise _invalid(msg)
    if name == "items":
        return _checked_items(value)
    if isinstance(value, (list, dict)):
        msg = f"GA4 takes text and numbers alone, and {name} is neither: only items may be a list, of tables"
        raise _invalid(msg)
    return value


def _checked_items(value: Any) -> Any:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS or not all(isinstance(item, dict) for item in value):
        msg = f"GA4 takes as items a list of at most {_MAX_ITEMS} tables"
        raise _invalid(msg)
    for name, each in (pair for item in value for pair in item.items()):
        if isinstance(each, (list, dict)) or (isinstance(each, str) and len(each) > _MAX_VALUE):
            what = _identifier(name)[:_MAX_NAME]
            msg = f"GA4 takes numbers, and text of {_MAX_VALUE} characters, in items; {what} is neither"
            raise _invalid(msg)
    return value


def _invalid(message: str) -> RefusedError:
    return RefusedError(message, reason="invalid")


def _frame(shared: Mapping[str, Any], _key: str, _sent_at: datetime) -> Frame:
    return around(shared, "events")


def _findings(answer: Answer) -> str | None:
    """The codes and places of what the validation server complains of; its sentences quote the event."""
    try:
        answered = from_json(answer.body or b"")
    except ValueError:
        answered = None
    messages = answered.get("validationMessages", []) if isinstance(answered, dict) else None
    if not isinstance(messages, list):
        return "its answer cannot be read"
    found = [message for message in messages if isinstance(message, dict)]
    named = [
        f"{_plain_word(each.get('validationCode'), _VALIDATION_CODE)} at "
        f"{_plain_word(each.get('fieldPath'), _FIELD_PATH)}"
        for each in found[:5]
    ]
    return ", ".join(named) or None


def _plain_word(value: object, form: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and form.fullmatch(value) else "?"
