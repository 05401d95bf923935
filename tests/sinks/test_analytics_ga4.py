"""The preset `ga4`: Google Analytics takes everything and says nothing, so its rules are kept here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import anyio
import httpx
import pytest
import respx

from sidefx import PartialError, PermanentError, TrackEvent, TransientError, track
from sidefx.request import Client, RequestInfo
from sidefx.testing import check_sink
from sidefx_sinks._http import Answer
from sidefx_sinks.analytics import Analytics, Discard
from sidefx_sinks.analytics import sink as sink_module
from tests.sinks.collector import Collector, Received
from tests.waiting import until

pytestmark = pytest.mark.anyio

SECRET = "api-s3cret"
STREAM = "G-ABC123XYZ9"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _ga4(collector: Collector, **settings: Any) -> Analytics:
    usual = {"preset": "ga4", "url": collector.url, "write_key": SECRET, "measurement_id": STREAM}
    everything: dict[str, Any] = usual | settings
    return Analytics(**everything)


def _event(number: int = 1, name: str = "purchase", **fields: Any) -> TrackEvent:
    identified: dict[str, Any] = {"anonymous_id": "555.666"} | fields
    event = track(name, **identified)
    return event.model_copy(update={"id": UUID(int=number)})


def _events_of(request: Received) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = request.json()["events"]
    return events


def _findings(*codes: str) -> bytes:
    said = [{"fieldPath": "events", "description": "[s3cret]", "validationCode": code} for code in codes]
    return json.dumps({"validationMessages": said}).encode()


async def test_it_keeps_the_contract(collector: Collector) -> None:
    """The suite of every sink."""
    await check_sink(lambda: _ga4(collector), [_event(1), _event(2, user_id="u")], secrets=[SECRET])


async def test_what_was_taken_before_the_lane_cut_it_off_is_not_sent_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GA4 counts twice what comes twice; once the call has ended, a repetition is one."""
    sent: list[str] = []
    slow = True

    async def ask(_path: str, content: bytes, **_: Any) -> Answer:
        sent.append(json.loads(content)["client_id"])
        if slow and sent[-1] == "slow":
            await anyio.sleep_forever()
        return Answer(204, None, b"")

    events = [_event(number, anonymous_id=who) for number, who in enumerate(("a", "b", "slow"))]
    async with _ga4(collector) as sink:
        monkeypatch.setattr(sink, "_ask", ask)
        async with anyio.create_task_group() as group:
            group.start_soon(sink.send_batch, events)
            await until(lambda: len(sent) == 3 and len(sink._taken) == 2)
            group.cancel_scope.cancel()
        slow = False
        await sink.send_batch(events)
        assert sorted(sent) == ["a", "b", "slow", "slow"]
        assert not sink._taken
        await sink.send_batch(events)
        assert len(sent) == 7


async def test_what_was_taken_is_remembered_within_bounds(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten; what is forgotten is sent again with the rest."""
    monkeypatch.setattr(sink_module, "_MAX_TAKEN", 1)
    async with _ga4(collector) as sink:
        sink._taken.update(dict.fromkeys([UUID(int=8), UUID(int=9)]))  # of a call that was cut off
        await sink.send_batch([_event(1)])
        assert not sink._taken


async def test_one_id_in_a_batch_goes_once(collector: Collector) -> None:
    """However often it stands there; what fails is then the whole of the batch."""
    event = _event()
    async with _ga4(collector) as sink:
        await sink.send_batch([event, event])
        collector.answer(503)
        with pytest.raises(TransientError):
            await sink.send_batch([event, event])
    assert [len(_events_of(request)) for request in collector.received] == [1, 1]


async def test_an_event_as_the_measurement_protocol_has_it(collector: Collector) -> None:
    """Stream and secret in the query; the user once, with the request's address; the event with its own moment."""
    at = datetime.now(UTC) - timedelta(hours=1)
    request = RequestInfo(request_id="r", path="/orders", client=Client("203.0.113.9"), user_agent="Browser/1")
    event = _event(
        user_id=17,
        properties={"value": 12.5, "gift": True, "coupon": None, "items": [{"item_id": "a", "quantity": 2}]},
        context={"session_id": "123", "locale": "de"},
        consent={"ad_user_data": True, "ad_personalization": False, "analytics": True},
    ).model_copy(update={"at": at, "request": request})
    async with _ga4(collector) as sink:
        await sink.send_batch([event])
    [sent] = collector.received
    address = urlsplit(sent.path)
    assert (sent.method, address.path) == ("POST", "/mp/collect")
    assert parse_qs(address.query) == {"measurement_id": [STREAM], "api_secret": [SECRET]}
    assert sent.json() == {
        "client_id": "555.666",
        "user_id": "17",
        "consent": {"ad_user_data": "GRANTED", "ad_personalization": "DENIED"},
        "ip_override": "203.0.113.9",
        "user_agent": "Browser/1",
        "events": [
            {
                "name": "purchase",
                "params": {
                    "session_id": "123",
                    "engagement_time_msec": 1,
                    "value": 12.5,
                    "gift": "true",
                    "items": [{"item_id": "a", "quantity": 2}],
                    "event_id": str(UUID(int=1)),
                },
                "timestamp_micros": round(at.timestamp() * 1_000_000),
            }
        ],
    }


@respx.mock
async def test_googles_own_address_is_the_default() -> None:
    """The one of the EU is a setting."""
    query = {"measurement_id": STREAM, "api_secret": SECRET}
    world = respx.post("https://www.google-analytics.com/mp/collect", params=query).mock(httpx.Response(204))
    europe = respx.post("https://region1.google-analytics.com/mp/collect", params=query).mock(httpx.Response(204))
    for url in (None, "https://region1.google-analytics.com"):
        async with Analytics(preset="ga4", url=url, write_key=SECRET, measurement_id=STREAM) as sink:
            await sink.send_batch([_event()])
    assert (world.call_count, europe.call_count) == (1, 1)


async def test_a_request_is_of_one_user(collector: Collector) -> None:
    """Events of several users, or from several places, travel in a request each; in order within it."""
    events = [_event(number, anonymous_id=f"{number % 3}.1") for number in range(9)]
    async with _ga4(collector) as sink:
        await sink.send_batch(events)
    sent = {
        request.json()["client_id"]: [UUID(event["params"]["event_id"]).int for event in _events_of(request)]
        for request in collector.received
    }
    assert sent == {"0.1": [0, 3, 6], "1.1": [1, 4, 7], "2.1": [2, 5, 8]}


async def test_25_events_are_a_request(collector: Collector) -> None:
    """The 26th makes another."""
    async with _ga4(collector) as sink:
        await sink.send_batch([_event(number) for number in range(26)])
    assert sorted(len(_events_of(request)) for request in collector.received) == [1, 25]


async def test_a_user_without_a_browser_has_a_client_of_their_own(collector: Collector) -> None:
    """Always the same one, in the form of the browsers' ids, and not the user id itself."""
    async with _ga4(collector) as sink:
        for user in ("u1", "u1", "u2"):
            await sink.send_batch([track("seen", user_id=user)])
    first, again, other = (request.json()["client_id"] for request in collector.received)
    assert first == again != other
    assert all(part.isdigit() for part in first.split("."))
    assert "u1" not in first


async def test_an_event_id_of_the_apps_own_stays(collector: Collector) -> None:
    """What the event says itself wins."""
    async with _ga4(collector) as sink:
        await sink.send_batch([_event(properties={"event_id": "concert-7"})])
    assert _events_of(collector.received[0])[0]["params"] == {"event_id": "concert-7"}


async def test_names_for_other_vendors_are_made_fit(collector: Collector) -> None:
    """What GA4 has in no name becomes an underscore."""
    async with _ga4(collector) as sink:
        await sink.send_batch([_event(name="Order Completed", properties={"unit price": 1, "gtag.x": 2, "page-nr": 3})])
    [event] = _events_of(collector.received[0])
    assert event["name"] == "Order_Completed"
    assert set(event["params"]) == {"unit_price", "gtag_x", "page_nr", "event_id"}


async def test_what_is_as_long_as_it_may_be_is_sent(collector: Collector) -> None:
    """25 parameters with the event's id, names of 40 characters, values of 100, a page's address of 1,000."""
    properties: dict[str, Any] = {f"p{number}": number for number in range(22)}
    properties |= {"n" * 40: "v" * 100, "page_location": "https://a.example/" + "x" * 982}
    async with _ga4(collector) as sink:
        await sink.send_batch([_event(name="e" * 40, properties=properties)])
    assert len(_events_of(collector.received[0])[0]["params"]) == 25


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "session_start"}, "the event name session_start for itself"),
        ({"name": "firebase_x"}, "for itself"),
        ({"name": "_x"}, "for itself"),
        ({"name": "1st"}, "as event name a letter"),
        ({"name": "e" * 41}, "as event name a letter"),
        ({"properties": {"ga_x": 1}}, "the parameter name ga_x"),
        ({"properties": {"1": 1}}, "as parameter name a letter"),
        ({"properties": {"p" * 41: 1}}, "as parameter name a letter"),
        ({"properties": {f"p{number}": 1 for number in range(25)}}, "25 parameters an event, and this one has 26"),
        ({"properties": {"text": "x" * 101}}, "100 characters as the value of text"),
        ({"properties": {"page_title": "x" * 301}}, "300 characters as the value of page_title"),
        ({"properties": {"deep": {"a": 1}}}, "text and numbers alone, and deep is neither"),
        ({"properties": {"items": {"a": 1}}}, "as items a list"),
        ({"properties": {"items": [1]}}, "as items a list"),
        ({"properties": {"items": [{}] * 201}}, "as items a list"),
        ({"properties": {"items": [{"a": [1]}]}}, "in items; a is neither"),
        ({"properties": {"unit price": 1, "unit_price": 2}}, "two of its properties have the same name"),
        ({"context": {"session_id": "s-1"}}, "session_id of digits"),
        ({"user_id": "u" * 257}, "256 characters as user_id"),
    ],
)
async def test_what_breaks_a_rule_is_refused_here(collector: Collector, fields: dict[str, Any], said: str) -> None:
    """By itself, with the rule: GA4 would drop or mangle it without a word."""
    async with _ga4(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([_event(1), _event(2, **fields)])
        assert [(line.reason, line.count) for line in sink.discards] == [("invalid", 1)]
    refused = caught.value.failures[UUID(int=2)]
    assert isinstance(refused, PermanentError)
    assert said in str(refused)
    assert [len(_events_of(request)) for request in collector.received] == [1]


async def test_an_event_of_more_than_72_hours_ago_is_refused(collector: Collector) -> None:
    """It would be counted on another day; one of a little less is sent."""
    age = [timedelta(hours=72, seconds=5), timedelta(hours=71, minutes=59)]
    events = [_event(number).model_copy(update={"at": datetime.now(UTC) - age[number]}) for number in range(2)]
    async with _ga4(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
        assert [line.reason for line in sink.discards] == ["too old"]
    assert list(caught.value.failures) == [UUID(int=0)]


async def test_a_body_stays_below_130_kilobytes(collector: Collector) -> None:
    """Large items make several requests, and an event that fits into none is refused."""
    items = [{"item_id": "x" * 90} for _ in range(200)]
    events = [_event(number, properties={"items": items}) for number in range(8)]
    async with _ga4(collector) as sink:
        await sink.send_batch(events)
        wide = [{f"k{number}": "x" * 100 for number in range(10)} for _ in range(200)]
        with pytest.raises(PermanentError, match="ga4 takes at most 129,9"):
            await sink.send_batch([_event(9, properties={"items": wide})])
    sizes = [len(request.body) for request in collector.received]
    assert max(sizes) <= 130_000
    assert len(sizes) == 2


async def test_an_outage_fails_what_was_not_sent(collector: Collector) -> None:
    """With several requests on their way: each event is delivered, or fails with the pause that was asked for."""
    for _ in range(10):
        collector.answer(503, {"Retry-After": "3"})
    async with _ga4(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([_event(number, anonymous_id=f"{number}.1") for number in range(30)])
    assert len(caught.value.failures) == 30
    assert {type(error) for error in caught.value.failures.values()} == {TransientError}
    assert len(collector.received) <= 8  # those that were under way at once: the rest was not tried


async def test_on_request_google_looks_first(collector: Collector) -> None:
    """With `validate` the same events go to the validation server, under its strict rules, and then on."""
    collector.answer(200, body=_findings())
    async with _ga4(collector, validate=True) as sink:
        await sink.send_batch([_event()])
    looked, sent = collector.received
    assert looked.path == sent.path.replace("/mp/collect", "/debug/mp/collect")
    assert looked.json() == sent.json() | {"validation_behavior": "ENFORCE_RECOMMENDATIONS"}


async def test_what_google_finds_wrong_is_not_sent(collector: Collector) -> None:
    """By halves the one that is wrong is found; code and place are told, and not the sentence, which quotes it."""
    for codes in (["NAME_INVALID"], [], None, ["NAME_INVALID"]):
        collector.answer(204) if codes is None else collector.answer(200, body=_findings(*codes))
    async with _ga4(collector, validate=True) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([_event(1), _event(2)])
        assert sink.discards == (Discard(f"ga4 {collector.host}", "invalid", 1),)
    assert list(caught.value.failures) == [UUID(int=2)]
    assert "NAME_INVALID at events" in str(caught.value.failures[UUID(int=2)])
    assert "s3cret" not in str(caught.value.failures[UUID(int=2)])
    assert [urlsplit(request.path).path for request in collector.received].count("/mp/collect") == 1


async def test_a_validation_that_cannot_be_read_sends_nothing(collector: Collector) -> None:
    """Whoever asks to be validated is not sent without."""
    collector.answer(200, body=b"<html>")
    async with _ga4(collector, validate=True) as sink:
        with pytest.raises(PermanentError, match="its answer cannot be read"):
            await sink.send_batch([_event()])
    assert len(collector.received) == 1


async def test_check_asks_the_validation_server_and_creates_nothing(collector: Collector) -> None:
    """An event that every stream takes; what is found wrong with it is said."""
    async with _ga4(collector) as sink:
        await sink.check()
        collector.answer(200, body=_findings("VALUE_REQUIRED"))
        with pytest.raises(PermanentError, match="VALUE_REQUIRED at events"):
            await sink.check()
    assert {urlsplit(request.path).path for request in collector.received} == {"/debug/mp/collect"}


@pytest.mark.contract("F03")
async def test_the_secret_of_the_query_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the repr, in an error, or in a log, whether Google refuses, is gone, or finds fault."""
    caplog.set_level(logging.DEBUG)
    with Collector() as collector:
        collector.answer(403)
        collector.answer(200, body=_findings("X"))
        sink = _ga4(collector)
        async with sink:
            with pytest.raises(PermanentError, match="answered 403") as refused:
                await sink.send_batch([_event()])
            with pytest.raises(PermanentError) as unfit:
                await sink.check()
    async with sink:
        with pytest.raises(TransientError, match="Connection refused") as gone:
            await sink.send_batch([_event()])
    shown = f"{sink!r}{vars(sink)}{sink.discards}{caplog.text}{refused.value!r}{unfit.value!r}{gone.value!r}"
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"measurement_id": None}, "measurement_id: the preset ga4 needs"),
        ({"measurement_id": "UA-1"}, "measurement_id: the preset ga4 needs"),
        ({"measurement_id": "G-ABC&x=y"}, "measurement_id: the preset ga4 needs"),
        ({"write_key": None}, "write_key: the preset ga4 needs"),
        ({"url": "https://c.example/?k=s3cret"}, "url: a base address"),
        ({"resource": {"service.name": "x"}}, "resource: the preset ga4 does not use it"),
        ({"preset": "json", "write_key": None}, "measurement_id: the preset json does not use it"),
        ({"preset": "segment", "measurement_id": None, "validate": True}, "validate: the preset segment"),
    ],
)
def test_a_wrong_setting_is_refused(collector: Collector, settings: dict[str, Any], complaint: str) -> None:
    """With the setting's name and the remedy, and without its value."""
    with pytest.raises(ValueError, match=complaint) as caught:
        _ga4(collector, **settings)
    assert "s3cret" not in str(caught.value)
