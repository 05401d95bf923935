"""Nothing is lost in silence: whatever comes, each event is delivered, fails, or is in the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidefx import PartialError, PermanentError, TrackEvent, TransientError, track
from sidefx_sinks.analytics import Analytics
from tests.sinks.collector import Collector

KEPT_BACK = {"no consent", "consent not known", "sampled", "before_send"}
IDS = {"segment": "messageId", "posthog_v1": "uuid", "json": "id"}

_values = st.sampled_from([1, "text", None, "x" * 40_000, object(), {"deep": [1, {"a": 2}]}, "\ud800"])
_facts = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from([f"u{number}" for number in range(9)]),
        "properties": st.dictionaries(st.sampled_from(["a", "b b", "ga_c"]), _values, max_size=2),
        "consent": st.sampled_from([None, {}, {"a": True}, {"a": False}]),
    }
)
_answers = st.lists(st.sampled_from([200, 200, 200, 400, 413, 503]), max_size=8)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One for all examples."""
    with Collector() as running:
        yield running


def _before_send(event: TrackEvent) -> TrackEvent | None:
    if event.id.int % 11 == 0:
        raise RuntimeError
    return None if event.id.int % 7 == 0 else event


def _events(facts: list[dict[str, Any]]) -> list[TrackEvent]:
    return [
        track("Seen", **each).model_copy(update={"id": UUID(int=number)}) for number, each in enumerate(facts, start=1)
    ]


async def _send(sink: Analytics, events: list[TrackEvent]) -> dict[UUID, Exception]:
    async with sink:
        try:
            await sink.send_batch(events)
        except PartialError as error:
            return dict(error.failures)
        except (PermanentError, TransientError) as error:
            return dict.fromkeys([event.id for event in events], error)
    return {}


def _of_all_accounts(
    sink: Analytics, events: list[TrackEvent], delivered: list[str], failures: dict[UUID, Any]
) -> None:
    report = {line.reason: line.count for line in sink.discards}
    kept_back = sum(count for reason, count in report.items() if reason in KEPT_BACK)
    assert len(set(delivered)) == len(delivered)
    assert not {str(id_) for id_ in failures} & set(delivered)
    assert len(delivered) + len(failures) + kept_back == len(events)
    refused = [error for error in failures.values() if isinstance(error, PermanentError)]
    assert sum(report.values()) - kept_back == len(refused)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    preset=st.sampled_from(list(IDS)),
    facts=st.lists(_facts, min_size=1, max_size=40),
    answers=_answers,
    rules=st.booleans(),
    gzip=st.booleans(),
)
def test_each_event_ends_in_one_place(
    collector: Collector, preset: Any, facts: list[dict[str, Any]], answers: list[int], rules: bool, gzip: bool
) -> None:
    """With answers of every kind, to requests one after the other."""
    collector.received.clear()
    collector.answers.clear()
    for status in answers:
        results = {str(UUID(int=5)): {"result": "drop"}, str(UUID(int=6)): {"result": "retry"}}
        collector.answer(status, body=json.dumps({"results": results}).encode())
    own: dict[str, Any] = {"require_consent": ["a"], "sample_users": 0.5, "before_send": _before_send} if rules else {}
    key = None if preset == "json" else "k"
    sink = Analytics(preset=preset, url=collector.url, write_key=key, gzip=gzip, **own)
    events = _events(facts)
    failures = anyio.run(_send, sink, events)
    statuses = [*answers, *[200] * len(collector.received)]
    delivered = [
        item[IDS[preset]]
        for status, request in zip(statuses, collector.received, strict=False)
        if status == 200
        for item in request.json()["batch"]
        if preset != "posthog_v1" or UUID(item[IDS[preset]]) not in failures  # it says so in a 200
    ]
    _of_all_accounts(sink, events, delivered, failures)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.lists(_facts, min_size=1, max_size=40), rules=st.booleans(), validate=st.booleans())
def test_each_event_of_many_users_ends_in_one_place(
    collector: Collector, facts: list[dict[str, Any]], rules: bool, validate: bool
) -> None:
    """With requests side by side."""
    collector.received.clear()
    collector.answers.clear()
    own: dict[str, Any] = {"require_consent": ["a"], "sample_users": 0.5, "before_send": _before_send} if rules else {}
    stream: dict[str, Any] = {"write_key": "k", "measurement_id": "G-ABC123", "validate": validate}
    sink = Analytics(preset="ga4", url=collector.url, **stream, **own)
    events = _events(facts)
    failures = anyio.run(_send, sink, events)
    delivered = [
        item["params"]["event_id"]
        for request in collector.received
        if request.path.startswith("/mp/")
        for item in request.json()["events"]
    ]
    _of_all_accounts(sink, events, delivered, failures)
