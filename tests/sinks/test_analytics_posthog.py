"""The preset `posthog_v1`: PostHog answers for each event by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from sidefx import PartialError, PermanentError, TrackEvent, TransientError, track
from sidefx.testing import check_sink
from sidefx_sinks.analytics import Analytics
from tests.sinks.collector import Collector

pytestmark = pytest.mark.anyio


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers as told."""
    with Collector() as running:
        yield running


def _events(count: int, **properties: Any) -> list[TrackEvent]:
    event = track("Seen", user_id=1, properties=properties)
    return [event.model_copy(update={"id": UUID(int=number)}) for number in range(1, count + 1)]


def _posthog(collector: Collector, preset: Any = "posthog_v1", **settings: Any) -> Analytics:
    return Analytics(preset=preset, url=collector.url, write_key="phc_s3cret", **settings)


def _answer(collector: Collector, results: Any, headers: dict[str, str] | None = None) -> None:
    named = {str(UUID(int=number)): result for number, result in results.items()}
    collector.answer(200, headers, json.dumps({"results": named}).encode())


async def test_it_keeps_the_contract(collector: Collector) -> None:
    """The suite of every sink."""
    for _ in range(20):
        _answer(collector, {})
    await check_sink(lambda: _posthog(collector), _events(2), secrets=["phc_s3cret"])


@pytest.mark.contract("L04")
@pytest.mark.parametrize("preset", ["posthog", "posthog_v1"])
async def test_each_event_has_its_own_result(collector: Collector, preset: str) -> None:
    """Accepted, with a warning, dropped for good, to be sent again, and one of which nothing is said."""
    results = {
        1: {"result": "ok"},
        2: {"result": "warning", "details": "skewed_clock"},
        3: {"result": "drop", "details": "missing_event_name"},
        4: {"result": "retry", "details": "busy"},
    }
    _answer(collector, results, {"Retry-After": "3"})
    async with _posthog(collector, preset) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(_events(5))
        assert [line.count for line in sink.discards] == [1]
    dropped, again = caught.value.failures[UUID(int=3)], caught.value.failures[UUID(int=4)]
    assert set(caught.value.failures) == {UUID(int=3), UUID(int=4)}
    assert isinstance(dropped, PermanentError)
    assert "missing_event_name" in str(dropped)
    assert isinstance(again, TransientError)
    assert again.retry_after == 3


@pytest.mark.contract("F03")
async def test_what_is_no_plain_word_is_not_repeated(collector: Collector) -> None:
    """The receiver's sentences could forge a line of a log, or quote the event."""
    _answer(collector, {1: {"result": "drop", "details": "forged\nline"}})
    async with _posthog(collector) as sink:
        with pytest.raises(PermanentError) as caught:
            await sink.send_batch(_events(1))
    assert "forged" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"results": 1}', b'{"results": "' + b"x" * 1_000_000])
async def test_an_answer_without_results_is_no_delivery(collector: Collector, body: bytes) -> None:
    """It is another receiver's, such as a proxy's; a second delivery is harmless, and none would be a loss."""
    collector.answer(200, body=body)
    async with _posthog(collector) as sink:
        with pytest.raises(TransientError, match="answered 200 without results"):
            await sink.send_batch(_events(2))


async def test_odd_results_are_those_of_accepted_events(collector: Collector) -> None:
    """As in PostHog's own client: what it does not understand asks for nothing."""
    _answer(collector, {1: None, 2: 7, 3: {"result": ["retry"]}, 4: {"result": "new"}})
    async with _posthog(collector) as sink:
        await sink.send_batch(_events(4))
    assert len(collector.received) == 1


async def test_properties_with_a_field_of_their_own_are_moved_there(collector: Collector) -> None:
    """A value of another type would refuse the whole batch: it is left out."""
    for _ in range(2):
        _answer(collector, {})
    good = {"$session_id": "s", "$window_id": "w", "$cookieless_mode": True, "$product_tour_id": "t", "own": 1}
    bad = {"$session_id": 1, "$window_id": None, "$cookieless_mode": "yes", "$product_tour_id": 2, "own": 1}
    async with _posthog(collector) as sink:
        await sink.send_batch(_events(1, **good))
        await sink.send_batch(_events(1, **bad))
    [first], [second] = (request.json()["batch"] for request in collector.received)
    assert (first["session_id"], first["window_id"]) == ("s", "w")
    assert first["options"] == {"cookieless_mode": True, "product_tour_id": "t"}
    assert (second["options"], "session_id" in second, "window_id" in second) == ({}, False, False)
    assert first["properties"] == second["properties"] == {"$geoip_disable": True, "$is_server": True, "own": 1}


async def test_the_headers_of_the_protocol_are_not_the_users_to_set(collector: Collector) -> None:
    """Nor is the authorization."""
    for name in ("PostHog-Attempt", "Authorization"):
        with pytest.raises(ValueError, match=f"headers: {name}"):
            _posthog(collector, headers={name: "x"})
