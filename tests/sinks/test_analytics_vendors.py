"""Request for request, what the sink sends is what the vendors' own Python clients send for the same calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from sidefx import track
from sidefx_sinks.analytics import Analytics
from tests.sinks.collector import Collector, Received
from tests.sinks.vendors import AT, CALLS, KEY, sent_by

pytestmark = pytest.mark.anyio

PRICED = 4
"""The call with a Decimal."""
OF_THE_PROCESS = {"$python_runtime", "$python_version", "$os", "$os_version", "$os_distro"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Takes what both send; its answer has the results of no event, which means that all are accepted."""
    with Collector() as running:
        for _ in range(4):
            running.answer(200, body=b'{"results": {}}')
        yield running


async def _sent_by_us(preset: Any, collector: Collector) -> Received:
    events = [
        track(
            call.event,
            user_id=call.user_id,
            anonymous_id=call.anonymous_id,
            properties=call.properties,
            context=call.context,
        ).model_copy(update={"id": call.id, "at": AT})
        for call in CALLS
    ]
    before = len(collector.received)
    async with Analytics(preset=preset, url=collector.url, write_key=KEY) as sink:
        await sink.send_batch(events)
    [request] = collector.received[before:]
    return request


def _comparable(value: Any) -> Any:
    """Moments as such: one writes Z, and the other +00:00."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value


def _bodies(theirs: list[Received], ours: Received) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both bodies, where address and authorization are the same, and one request was enough for each."""
    [request] = theirs
    assert (ours.method, ours.path) == (request.method, request.path)
    assert ours.headers["content-type"] == request.headers["content-type"] == "application/json"
    assert ours.headers.get("authorization") == request.headers.get("authorization")
    return _comparable(request.json()), _comparable(ours.json())


def _decimals_differ(theirs: list[Any], ours: list[Any]) -> None:
    """Theirs make floats of decimals; ours writes them exactly, and in memory as it does from a journal."""
    assert theirs[PRICED]["properties"].pop("price") == 1.5
    assert ours[PRICED]["properties"].pop("price") == "1.50"


async def test_segments_client_sends_the_same(collector: Collector) -> None:
    """But for what says nothing, who sends it, and the key, which is in the header alone."""
    theirs, ours = _bodies(sent_by("segment", collector), await _sent_by_us("segment", collector))
    assert theirs.pop("writeKey") == KEY  # a second time, where a body that is logged or kept would show it
    assert theirs.pop("sentAt") <= ours.pop("sentAt")
    _decimals_differ(theirs["batch"], ours["batch"])
    for item in theirs["batch"]:
        assert item.pop("integrations") == {}  # all of them, which is what an absent one means
        for name in ("userId", "anonymousId"):
            if item[name] is None:  # as is an absent one
                del item[name]
        assert item["context"].pop("library")["name"] == "analytics-python"
    for item in ours["batch"]:
        assert item["context"].pop("library") == {"name": "sidefx"}
    assert theirs == ours


async def test_posthogs_client_sends_the_same(collector: Collector) -> None:
    """But for who sends it, and the sender's Python and operating system, which are no business of a visitor's."""
    theirs, ours = _bodies(sent_by("posthog", collector), await _sent_by_us("posthog", collector))
    assert theirs.pop("sent_at") <= ours.pop("sent_at")
    _same_but_for_the_sender(theirs, ours)
    for item in theirs["batch"]:
        assert item["properties"].pop("$lib") == "posthog-python"
        assert item["properties"].pop("$lib_version")
    for item in ours["batch"]:
        assert item["properties"].pop("$lib") == "sidefx"
        assert item["properties"].pop("$lib_version")
    assert theirs == ours


async def test_posthogs_client_sends_the_same_where_each_event_has_a_result(collector: Collector) -> None:
    """The same differences; library and version stand in a header."""
    [request] = sent_by("posthog_v1", collector)
    answered = await _sent_by_us("posthog_v1", collector)
    theirs, ours = _bodies([request], answered)
    assert theirs.pop("created_at") <= ours.pop("created_at")
    _same_but_for_the_sender(theirs, ours)
    assert theirs == ours
    named = {name for name in request.headers if name.startswith("posthog-")}
    assert {name for name in answered.headers if name.startswith("posthog-")} == named
    assert answered.headers["posthog-sdk-info"].startswith("sidefx/")
    assert answered.headers["posthog-attempt"] == request.headers["posthog-attempt"] == "1"


def _same_but_for_the_sender(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    _decimals_differ(theirs["batch"], ours["batch"])
    for item in theirs["batch"]:
        process = {name for name in item["properties"] if name in OF_THE_PROCESS}
        assert process >= {"$python_runtime", "$os"}
        for name in process:
            del item["properties"][name]
