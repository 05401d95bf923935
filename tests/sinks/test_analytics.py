"""The sink `analytics`: three formats, their caps, and what becomes of each answer."""

from __future__ import annotations

import gzip
import logging
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import respx
from pydantic import SecretStr

from sidefx import PartialError, PermanentError, TrackEvent, TransientError, track
from sidefx.request import Client, RequestInfo
from sidefx.sink import inspect_sink
from sidefx_sinks.analytics import Analytics
from tests.sinks.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

KEY = SecretStr("wk_s3cret")
AT = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _order(number: int = 1, **changes: Any) -> TrackEvent:
    event = track("Order Completed", user_id=17, properties={"total": 12.5}, context={"locale": "de"})
    return event.model_copy(update={"id": UUID(int=number), "at": AT} | changes)


def _visited(event: TrackEvent) -> TrackEvent:
    request = RequestInfo(
        request_id="r1", method="POST", path="/orders", client=Client("203.0.113.9", 4711), user_agent="Browser/1"
    )
    return event.model_copy(update={"request": request})


def _sent_ids(collector: Collector, name: str) -> list[list[int]]:
    return [[UUID(item[name]).int for item in request.json()["batch"]] for request in collector.received]


def _analytics(collector: Collector, preset: Any = "segment", **settings: Any) -> Analytics:
    key = None if preset == "json" else KEY
    return Analytics(**{"preset": preset, "url": collector.url, "write_key": key} | settings)


def test_it_takes_batches_of_track_events() -> None:
    """The lane reads from the annotation what to route to it."""
    spec = inspect_sink(Analytics(url="https://collector.example/"))
    assert (spec.event_types, spec.batch, spec.synchronous) == ((TrackEvent,), True, False)
    assert not spec.asyncio_only


async def test_segment_gets_its_batch_format(collector: Collector) -> None:
    """`POST /v1/batch` with the key as the user of HTTP Basic, and the event's id as `messageId`."""
    async with _analytics(collector) as sink:
        await sink.send_batch([_visited(_order())])
    [request] = collector.received
    sent = request.json()
    assert (request.method, request.path) == ("POST", "/v1/batch")
    assert request.headers["authorization"] == "Basic " + b64encode(b"wk_s3cret:").decode()
    assert request.headers["content-type"] == "application/json"
    assert datetime.fromisoformat(sent.pop("sentAt")).tzinfo is not None
    assert sent == {
        "batch": [
            {
                "type": "track",
                "messageId": "00000000-0000-0000-0000-000000000001",
                "event": "Order Completed",
                "userId": "17",
                "properties": {"total": 12.5},
                "context": {
                    "library": {"name": "sidefx"},
                    "ip": "203.0.113.9",
                    "userAgent": "Browser/1",
                    "page": {"path": "/orders"},
                    "locale": "de",
                },
                "timestamp": "2026-03-04T05:06:07.891Z",
            }
        ]
    }


async def test_posthog_gets_its_batch_format(collector: Collector) -> None:
    """`POST /batch/` with the key in the body, the event's id as `uuid`, and the context among the properties."""
    async with _analytics(collector, "posthog") as sink:
        await sink.send_batch([_visited(_order())])
    [request] = collector.received
    sent = request.json()
    assert (request.method, request.path) == ("POST", "/batch/")
    assert "authorization" not in request.headers
    assert datetime.fromisoformat(sent.pop("sent_at")).tzinfo is not None
    assert sent == {
        "api_key": "wk_s3cret",
        "historical_migration": False,
        "batch": [
            {
                "uuid": "00000000-0000-0000-0000-000000000001",
                "event": "Order Completed",
                "distinct_id": "17",
                "properties": {
                    "$lib": "sidefx",
                    "$lib_version": version("sidefx"),
                    "$is_server": True,
                    "$ip": "203.0.113.9",
                    "$useragent": "Browser/1",
                    "$pathname": "/orders",
                    "locale": "de",
                    "total": 12.5,
                },
                "timestamp": "2026-03-04T05:06:07.891Z",
            }
        ],
    }


async def test_a_collector_of_ones_own_gets_plain_json(collector: Collector) -> None:
    """The URL is used as given, query included, with the configured headers."""
    settings = {"url": f"{collector.url}/in?app=shop", "headers": {"Authorization": SecretStr("Bearer s3cret")}}
    async with _analytics(collector, "json", **settings) as sink:
        await sink.send_batch([_visited(_order())])
    [request] = collector.received
    assert (request.method, request.path) == ("POST", "/in?app=shop")
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.json() == {
        "batch": [
            {
                "id": "00000000-0000-0000-0000-000000000001",
                "event": "Order Completed",
                "user_id": "17",
                "anonymous_id": None,
                "properties": {"total": 12.5},
                "context": {"ip": "203.0.113.9", "user_agent": "Browser/1", "path": "/orders", "locale": "de"},
                "timestamp": "2026-03-04T05:06:07.891Z",
            }
        ]
    }


@respx.mock
@pytest.mark.parametrize(
    ("preset", "address"),
    [("segment", "https://api.segment.io/v1/batch"), ("posthog", "https://us.i.posthog.com/batch/")],
)
async def test_each_vendor_has_its_address(preset: Any, address: str) -> None:
    """Without `url`, the batch goes to the vendor's own host."""
    route = respx.post(address).mock(httpx.Response(200))
    async with Analytics(preset=preset, write_key=KEY) as sink:
        await sink.send_batch([_order()])
    assert route.call_count == 1


async def test_a_base_address_may_have_a_path(collector: Collector) -> None:
    """A reverse proxy in front of the vendor: the preset's path is appended."""
    async with _analytics(collector, url=f"{collector.url}/segment/") as sink:
        await sink.send_batch([_order()])
    assert collector.received[0].path == "/segment/v1/batch"


@pytest.mark.parametrize(
    ("preset", "who"),
    [
        ("segment", {"anonymousId": "a1"}),
        ("posthog", {"distinct_id": "a1"}),
        ("json", {"anonymous_id": "a1", "user_id": None}),
    ],
)
async def test_an_anonymous_visitor_is_one(collector: Collector, preset: str, who: dict[str, Any]) -> None:
    """The anonymous id goes where the vendor looks for it, and there is no user."""
    async with _analytics(collector, preset) as sink:
        await sink.send_batch([track("Seen", anonymous_id="a1")])
    [item] = collector.received[0].json()["batch"]
    assert {name: item[name] for name in who} == who
    assert "userId" not in item


@pytest.mark.parametrize("preset", ["segment", "posthog", "json"])
async def test_the_requests_facts_can_stay_at_home(collector: Collector, preset: str) -> None:
    """With `request_context = false` no address, user agent or path leaves."""
    async with _analytics(collector, preset, request_context=False) as sink:
        await sink.send_batch([_visited(_order())])
    body = collector.received[0].body
    assert not any(fact in body for fact in (b"203.0.113.9", b"Browser/1", b"/orders"))


async def test_posthog_does_not_place_visitors_where_the_server_is(collector: Collector) -> None:
    """Where the visitor's address is not known, PostHog is told not to use ours."""
    async with _analytics(collector, "posthog") as sink:
        await sink.send_batch([_order()])
    assert collector.received[0].json()["batch"][0]["properties"]["$geoip_disable"] is True


@pytest.mark.parametrize("preset", ["segment", "posthog", "json"])
async def test_what_the_event_says_of_itself_wins(collector: Collector, preset: str) -> None:
    """The event's own context and properties stand above the request's facts."""
    own = {"ip": "::1", "$ip": "::1"}
    async with _analytics(collector, preset) as sink:
        await sink.send_batch([_visited(_order(context=own))])
    assert b"203.0.113.9" not in collector.received[0].body


async def test_values_are_written_as_pydantic_writes_them(collector: Collector) -> None:
    """Dates, ids, decimals and bytes have a JSON form; NaN, which has none, becomes null."""
    values = {"at": AT, "id": UUID(int=2), "price": Decimal("1.50"), "raw": b"\xff", "ratio": float("nan")}
    async with _analytics(collector) as sink:
        await sink.send_batch([_order(properties=values)])
    assert collector.received[0].json()["batch"][0]["properties"] == {
        "at": "2026-03-04T05:06:07.891234Z",
        "id": str(UUID(int=2)),
        "price": "1.50",
        "raw": "_w==",
        "ratio": None,
    }


async def test_gzip_compresses_the_body(collector: Collector) -> None:
    """The body says that it is compressed, is, and is smaller for it."""
    events = [_order(number) for number in range(1, 101)]
    async with _analytics(collector, gzip=True) as sink:
        await sink.send_batch(events)
    [request] = collector.received
    assert request.headers["content-encoding"] == "gzip"
    assert len(request.body) < len(gzip.decompress(request.body)) / 5
    assert _sent_ids(collector, "messageId") == [list(range(1, 101))]


async def test_no_events_are_no_request(collector: Collector) -> None:
    """An empty batch is delivered without a word."""
    async with _analytics(collector) as sink:
        await sink.send_batch([])
    assert collector.received == []


@pytest.mark.parametrize(("preset", "name"), [("segment", "messageId"), ("posthog", "uuid"), ("json", "id")])
async def test_a_repeated_delivery_can_be_told(collector: Collector, preset: str, name: str) -> None:
    """The same batch sent twice has the same message ids."""
    events = [_order(1), _order(2)]
    async with _analytics(collector, preset) as sink:
        await sink.send_batch(events)
        await sink.send_batch(events)
    assert _sent_ids(collector, name) == [[1, 2], [1, 2]]


async def test_segments_cap_on_events_makes_several_requests(collector: Collector) -> None:
    """2,500 events a request, in order, none lost and none twice."""
    async with _analytics(collector) as sink:
        await sink.send_batch(
            [_order(number, event="x", user_id="1", properties={}, context={}) for number in range(2502)]
        )
    assert _sent_ids(collector, "messageId") == [list(range(2500)), [2500, 2501]]


@pytest.mark.parametrize(("preset", "cap"), [("segment", 500_000), ("posthog", 5 * 1024 * 1024)])
async def test_the_cap_on_bytes_makes_several_requests(collector: Collector, preset: str, cap: int) -> None:
    """No body is larger than the vendor takes, and none is much smaller than it could be."""
    size = 30_000 if preset == "segment" else 400_000
    events = [_order(number, properties={"text": "x" * size}) for number in range(20)]
    async with _analytics(collector, preset) as sink:
        await sink.send_batch(events)
    sizes = [len(request.body) for request in collector.received]
    assert max(sizes) <= cap
    assert min(sizes[:-1]) > cap - size - 1_000
    assert sum(map(len, _sent_ids(collector, "messageId" if preset == "segment" else "uuid"))) == 20


async def test_a_body_may_be_exactly_as_large_as_the_cap(collector: Collector) -> None:
    """The envelope counts, and not a byte is wasted."""
    async with _analytics(collector) as sink:
        await sink.send_batch([_order(number, properties={"text": "x" * 24_600}) for number in range(20)])
        spare = 500_000 - len(collector.received[0].body)
        events = [
            _order(number, properties={"text": "x" * (24_600 + (spare if number == 0 else 0))}) for number in range(20)
        ]
        collector.received.clear()
        await sink.send_batch(events)
        assert [len(request.body) for request in collector.received] == [500_000]
        collector.received.clear()
        await sink.send_batch([_order(0, properties={"text": "x" * (24_601 + spare)}), *events[1:]])
        assert [len(ids) for ids in _sent_ids(collector, "messageId")] == [19, 1]


async def test_with_gzip_no_body_is_large_enough_to_hold_the_loop(collector: Collector) -> None:
    """What is compressed at once is bounded, whatever the vendor takes."""
    events = [_order(number, properties={"text": "x" * 100_000}) for number in range(12)]
    async with _analytics(collector, "json", gzip=True) as sink:
        await sink.send_batch(events)
    assert max(len(gzip.decompress(request.body)) for request in collector.received) <= 500_000
    assert sum(map(len, _sent_ids(collector, "id"))) == 12


@pytest.mark.contract("L04")
async def test_one_oversize_event_is_rejected_by_itself(collector: Collector) -> None:
    """Segment takes 32 KB an event: the large one is refused for good, the others are delivered."""
    events = [_order(1), _order(2, properties={"text": "x" * 32_768}), _order(3)]
    async with _analytics(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
    assert list(caught.value.failures) == [UUID(int=2)]
    refused = caught.value.failures[UUID(int=2)]
    assert isinstance(refused, PermanentError)
    assert "segment takes at most 32,768" in str(refused)
    assert _sent_ids(collector, "messageId") == [[1, 3]]


async def test_posthogs_own_cap_on_an_event_is_kept(collector: Collector) -> None:
    """900 KiB, as in PostHog's own client: a larger one would cost its whole request."""
    async with _analytics(collector, "posthog") as sink:
        with pytest.raises(PermanentError, match="posthog takes at most 921,600"):
            await sink.send_batch([_order(1, properties={"text": "x" * 900 * 1024})])
    assert collector.received == []


@pytest.mark.parametrize("value", [object(), "\ud800", {"deep": object()}])
async def test_a_value_without_json_form_is_rejected_by_itself(collector: Collector, value: object) -> None:
    """The event is refused for good, the others are delivered."""
    async with _analytics(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([_order(1), _order(2, properties={"value": value})])
    assert isinstance(caught.value.failures[UUID(int=2)], PermanentError)
    assert _sent_ids(collector, "messageId") == [[1]]


@pytest.mark.contract("L04")
async def test_a_later_request_that_fails_costs_nothing_twice(collector: Collector) -> None:
    """The delivered requests are not named as failed; what came after the failure is not tried."""
    events = [_order(number, properties={"text": "x" * 30_000}) for number in range(48)]  # 16 fit into a request
    collector.answer(200)
    collector.answer(503, {"Retry-After": "3"})
    async with _analytics(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
        assert [len(ids) for ids in _sent_ids(collector, "messageId")] == [16, 16]
        assert [key.int for key in caught.value.failures] == list(range(16, 48))
        assert all(
            isinstance(error, TransientError) and error.retry_after == 3 for error in caught.value.failures.values()
        )
        collector.received.clear()
        await sink.send_batch([event for event in events if event.id in caught.value.failures])
    assert [each for ids in _sent_ids(collector, "messageId") for each in ids] == list(range(16, 48))


async def test_a_refused_request_does_not_refuse_the_next(collector: Collector) -> None:
    """A permanent error is of the events in that request alone."""
    events = [_order(number, properties={"text": "x" * 30_000}) for number in range(20)]
    collector.answer(400)
    async with _analytics(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
    assert [key.int for key in caught.value.failures] == list(range(16))
    assert {type(error) for error in caught.value.failures.values()} == {PermanentError}


async def test_413_halves_the_batch_until_it_fits(collector: Collector) -> None:
    """A receiver with a lower cap gets smaller requests, in order; an event too large by itself fails alone."""
    for status in (413, 200, 413, 413, 200):  # 4 → 2+2 → the second half → the third alone is refused
        collector.answer(status)
    async with _analytics(collector, "json") as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([_order(number) for number in range(1, 5)])
    assert _sent_ids(collector, "id") == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]
    assert list(caught.value.failures) == [UUID(int=3)]
    assert isinstance(caught.value.failures[UUID(int=3)], PermanentError)
    assert "413" in str(caught.value.failures[UUID(int=3)])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, TransientError), (503, TransientError), (400, PermanentError), (401, PermanentError), (307, PermanentError)],
)
async def test_one_reason_for_the_whole_batch_is_raised_as_itself(
    collector: Collector, status: int, kind: type[Exception]
) -> None:
    """Then the lane's breaker and `Retry-After` see it as it is."""
    collector.answer(status, {"Location": "/elsewhere"} if status == 307 else {"Retry-After": "9"})
    async with _analytics(collector) as sink:
        with pytest.raises(kind, match=f"answered {status}") as caught:
            await sink.send_batch([_order(1), _order(2)])
    assert len(collector.received) == 1
    assert getattr(caught.value, "retry_after", 9) == 9


@pytest.mark.contract("F03")
@pytest.mark.parametrize("preset", ["segment", "posthog", "posthog_v1"])
async def test_the_key_is_shown_nowhere(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the repr, in an error, or in a log, whether the receiver refuses or is gone."""
    caplog.set_level(logging.DEBUG)
    with Collector() as collector:
        collector.answer(401)
        sink = _analytics(collector, preset)
        async with sink:
            with pytest.raises(PermanentError, match="answered 401") as refused:
                await sink.send_batch([_order()])
    async with sink:
        with pytest.raises(TransientError, match="Connection refused") as gone:
            await sink.send_batch([_order()])
        with pytest.raises(TransientError, match="Connection refused") as unchecked:
            await sink.check()
    shown = f"{sink!r}{caplog.text}{refused.value!r}{gone.value!r}{unchecked.value!r}"
    assert "s3cret" not in shown
    assert b64encode(b"wk_s3cret:").decode() not in shown


async def test_check_asks_for_a_sign_of_life_and_creates_nothing(collector: Collector) -> None:
    """Any answer is one: whether the key is right cannot be asked without sending an event."""
    collector.answer(404)
    async with _analytics(collector) as sink:
        await sink.check()
    assert [(request.method, request.path) for request in collector.received] == [("HEAD", "/")]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"preset": "segment"}, "write_key: the preset segment needs"),
        ({"preset": "posthog", "write_key": SecretStr("")}, "write_key: the preset posthog needs"),
        ({"preset": "segment", "write_key": SecretStr("s3cret\r\nX: y")}, "write_key: holds a character"),
        ({"preset": "segment", "write_key": SecretStr("s3cret:")}, "write_key: holds a character"),
        ({"preset": "json"}, "url: the preset json has no address"),
        ({"preset": "posthog", "write_key": KEY, "url": "https://c.example/?k=s3cret"}, "url: a base address"),
        ({"preset": "json", "url": "collector.example"}, "https://host/path"),
        ({"url": "https://collector.example", "write_key": KEY}, "write_key: the preset json does not use it"),
        ({"url": "https://c.example", "headers": {"X": SecretStr("s3cret\n")}}, "headers: the value of X"),
        ({"url": "https://c.example", "headers": {"content-type": SecretStr("x")}}, "headers: content-type"),
        (
            {"preset": "segment", "write_key": KEY, "headers": {"Authorization": SecretStr("x")}},
            "headers: Authorization is set by the sink",
        ),
    ],
)
def test_a_wrong_setting_is_refused_at_construction(settings: dict[str, Any], complaint: str) -> None:
    """With the setting's name and the remedy, and without its value."""
    with pytest.raises(ValueError, match=complaint) as caught:
        Analytics(**settings)
    assert "s3cret" not in str(caught.value)


async def test_a_sink_that_is_not_open_says_so() -> None:
    """Rather than opening a client that nobody closes."""
    with pytest.raises(RuntimeError, match="async with"):
        await Analytics(url="https://collector.example").send_batch([_order()])
