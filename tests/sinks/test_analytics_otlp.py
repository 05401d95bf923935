"""The preset `otlp`: OpenTelemetry logs over HTTP, read by the protocol's own messages."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

from sidefx import PermanentError, TrackEvent, TransientError, track
from sidefx.request import Client, RequestInfo
from sidefx.testing import check_sink
from sidefx_sinks.analytics import Analytics, Discard
from sidefx_sinks.analytics.chunk import plain
from sidefx_sinks.analytics.otlp import otlp
from sidefx_sinks.analytics.preset import Visit
from tests.sinks.collector import Collector, Received

pytestmark = pytest.mark.anyio

AT = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _otlp(collector: Collector, **settings: Any) -> Analytics:
    return Analytics(preset="otlp", url=collector.url, **settings)


def _event(number: int = 1, **fields: Any) -> TrackEvent:
    event = track("Order Completed", user_id=17, **fields)
    return event.model_copy(update={"id": UUID(int=number), "at": AT})


def _request(received: Received) -> Any:
    """As the protocol's own message; in OTLP's JSON, unlike in protobuf's, ids are in hexadecimal."""
    body = received.json()
    for record in body["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
        for name in {"traceId", "spanId"} & set(record):
            record[name] = b64encode(bytes.fromhex(record[name])).decode()
    return ParseDict(body, ExportLogsServiceRequest())  # raises for a field that the message does not have


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: MessageToDict(each.value) for each in attributes}


async def test_it_keeps_the_contract(collector: Collector) -> None:
    """The suite of every sink."""
    await check_sink(
        lambda: _otlp(collector, headers={"Authorization": "Bearer s3cret"}), [_event(1), _event(2)], secrets=["s3cret"]
    )


async def test_an_event_is_a_log_record(collector: Collector) -> None:
    """With its name, moment, attributes, and the trace of its request."""
    request = RequestInfo(
        request_id="r",
        path="/orders",
        client=Client("203.0.113.9"),
        user_agent="Browser/1",
        traceparent=f"00-{TRACE}-{SPAN}-01",
    )
    event = _event(anonymous_id="a-1", properties={"total": 12.5}, context={"locale": "de"})
    async with _otlp(collector, resource={"service.name": "shop", "deployment.environment.name": "prod"}) as sink:
        await sink.send_batch([event.model_copy(update={"request": request})])
    [received] = collector.received
    assert (received.method, received.path) == ("POST", "/v1/logs")
    assert received.headers["content-type"] == "application/json"
    [resource] = _request(received).resource_logs
    assert _values(resource.resource.attributes) == {
        "service.name": {"stringValue": "shop"},
        "deployment.environment.name": {"stringValue": "prod"},
    }
    [scope] = resource.scope_logs
    assert (scope.scope.name, bool(scope.scope.version)) == ("sidefx", True)
    [record] = scope.log_records
    assert record.event_name == record.body.string_value == "Order Completed"
    assert record.severity_number == SeverityNumber.SEVERITY_NUMBER_INFO
    assert record.time_unix_nano == int(AT.timestamp()) * 1_000_000_000 + 891_234_000
    assert (record.trace_id.hex(), record.span_id.hex(), record.flags) == (TRACE, SPAN, 1)
    assert _values(record.attributes) == {
        "log.record.uid": {"stringValue": str(UUID(int=1))},
        "user.id": {"stringValue": "17"},
        "sidefx.anonymous_id": {"stringValue": "a-1"},
        "client.address": {"stringValue": "203.0.113.9"},
        "user_agent.original": {"stringValue": "Browser/1"},
        "url.path": {"stringValue": "/orders"},
        "locale": {"stringValue": "de"},
        "total": {"doubleValue": 12.5},
    }


async def test_each_value_has_its_type(collector: Collector) -> None:
    """Numbers stay numbers, and what is larger than 64 bits becomes text rather than refusing the request."""
    properties = {
        "yes": True,
        "small": -(2**63),
        "large": 2**63,
        "none": None,
        "nan": float("nan"),
        "list": [1, "a", [2.5]],
        "deep": {"a": {"b": "c"}},
        "at": AT,
    }
    async with _otlp(collector) as sink:
        await sink.send_batch([_event(properties=properties)])
    [resource] = _request(collector.received[0]).resource_logs
    values = _values(resource.scope_logs[0].log_records[0].attributes)
    assert {name: values[name] for name in properties} == {
        "yes": {"boolValue": True},
        "small": {"intValue": str(-(2**63))},
        "large": {"stringValue": str(2**63)},
        "none": {},
        "nan": {},
        "list": {
            "arrayValue": {
                "values": [{"intValue": "1"}, {"stringValue": "a"}, {"arrayValue": {"values": [{"doubleValue": 2.5}]}}]
            }
        },
        "deep": {
            "kvlistValue": {
                "values": [
                    {"key": "a", "value": {"kvlistValue": {"values": [{"key": "b", "value": {"stringValue": "c"}}]}}}
                ]
            }
        },
        "at": {"stringValue": "2026-03-04T05:06:07.891234Z"},
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(name=st.text(min_size=1), properties=st.dictionaries(st.text(), _JSON, max_size=4))
def test_whatever_an_event_says_is_a_request_of_the_protocol(name: str, properties: dict[str, Any]) -> None:
    """One field of a wrong type would refuse the whole batch."""
    record = plain(otlp(None).item(track(name, user_id=1, properties=properties), Visit()))
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    [parsed] = ParseDict(body, ExportLogsServiceRequest()).resource_logs[0].scope_logs[0].log_records
    assert {each.key for each in parsed.attributes} >= set(properties)


async def test_a_request_without_a_trace_gives_none(collector: Collector) -> None:
    """Nor does one that is none."""
    async with _otlp(collector) as sink:
        for traceparent in (None, "nonsense"):
            request = RequestInfo(request_id="r", traceparent=traceparent)
            await sink.send_batch([_event().model_copy(update={"request": request})])
    for received in collector.received:
        [record] = received.json()["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        assert not {"traceId", "spanId", "flags"} & set(record)


async def test_many_events_are_one_request_that_names_its_service_once(collector: Collector) -> None:
    """And whose name is not known, where nobody said it."""
    async with _otlp(collector, gzip=True) as sink:
        await sink.send_batch([_event(number) for number in range(50)])
    [received] = collector.received
    [resource] = _request(received).resource_logs
    assert _values(resource.resource.attributes) == {"service.name": {"stringValue": "unknown_service"}}
    uids = [_values(record.attributes)["log.record.uid"] for record in resource.scope_logs[0].log_records]
    assert uids == [{"stringValue": str(UUID(int=number))} for number in range(50)]


async def test_the_id_is_always_the_events_own(collector: Collector) -> None:
    """A property cannot stand in for what duplicates are dropped by, nor for the user."""
    async with _otlp(collector) as sink:
        await sink.send_batch([_event(properties={"log.record.uid": "x", "user.id": "y", "client.address": "z"})])
    [resource] = _request(collector.received[0]).resource_logs
    values = _values(resource.scope_logs[0].log_records[0].attributes)
    assert values["log.record.uid"] == {"stringValue": str(UUID(int=1))}
    assert (values["user.id"], values["client.address"]) == ({"stringValue": "17"}, {"stringValue": "z"})


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_the_protocol_lets_be_retried_is(collector: Collector, status: int) -> None:
    """With the pause that the receiver asks for."""
    collector.answer(status, {"Retry-After": "7"})
    async with _otlp(collector) as sink:
        with pytest.raises(TransientError, match=f"answered {status}") as caught:
            await sink.send_batch([_event()])
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [400, 401, 404, 408, 500, 501])
async def test_what_the_protocol_forbids_to_retry_is_rejected(collector: Collector, status: int) -> None:
    """500 and 408 too, unlike elsewhere."""
    collector.answer(status)
    async with _otlp(collector) as sink:
        with pytest.raises(PermanentError, match=f"answered {status}"):
            await sink.send_batch([_event()])


@pytest.mark.parametrize("count", ["2", 2])
async def test_a_partial_success_is_counted_and_not_sent_again(
    collector: Collector, count: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not say which: the report and the log have the number, in the receiver's place."""
    partial = {"rejectedLogRecords": count, "errorMessage": "forged\nline"}
    collector.answer(200, body=json.dumps({"partialSuccess": partial}).encode())
    async with _otlp(collector) as sink:
        await sink.send_batch([_event(number) for number in range(5)])
        assert sink.discards == (Discard(f"otlp {collector.host}", "refused, and not said which", 2),)
    assert "2 refused, and not said which" in caplog.text
    assert "forged" not in caplog.text


async def test_a_partial_success_of_nothing_is_a_refusal_of_all(collector: Collector) -> None:
    """Then it is known which."""
    collector.answer(200, body=b'{"partialSuccess": {"rejectedLogRecords": "2"}}')
    async with _otlp(collector) as sink:
        with pytest.raises(PermanentError, match="partial success"):
            await sink.send_batch([_event(1), _event(2)])
        assert [(line.reason, line.count) for line in sink.discards] == [("refused", 2)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"partialSuccess": null}',
        b'{"partialSuccess": {"errorMessage": "a hint"}}',
        b'{"partialSuccess": {"rejectedLogRecords": "-1"}}',
        b'{"partialSuccess": {"rejectedLogRecords": "many"}}',
    ],
)
async def test_any_other_2xx_is_a_delivery(collector: Collector, body: bytes) -> None:
    """A hint is none of ours to follow."""
    collector.answer(200, body=body)
    async with _otlp(collector) as sink:
        await sink.send_batch([_event()])
        assert sink.discards == ()


async def test_check_sends_an_empty_request(collector: Collector) -> None:
    """Which creates nothing, and shows whether path and authorization are right."""
    async with _otlp(collector, headers={"Authorization": "Bearer s3cret"}) as sink:
        await sink.check()
        collector.answer(401)
        with pytest.raises(PermanentError, match="answered 401"):
            await sink.check()
    assert collector.received[0].headers["authorization"] == "Bearer s3cret"
    assert ParseDict(collector.received[0].json(), ExportLogsServiceRequest()) == ExportLogsServiceRequest()


def test_a_key_is_a_header_of_its_own() -> None:
    """OTLP has none; the default address is the collector's on this machine."""
    with pytest.raises(ValueError, match=r"the preset otlp does not use it; set headers\.Authorization"):
        Analytics(preset="otlp", write_key="x")
    assert Analytics(preset="otlp").discards == ()
