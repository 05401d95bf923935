"""The sink `webhook`: CloudEvents in structured and in binary mode, as the `cloudevents` library reads them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import standardwebhooks
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from pydantic import SecretStr

from sidefx import Event, PermanentError, TransientError
from sidefx.request import RequestInfo
from sidefx.testing import check_sink
from sidefx_sinks.webhook import Webhook
from tests.sinks.collector import Collector, Received

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
AT = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MODES = ["cloudevents", "cloudevents-binary"]


class Packed(Event, kind="test_webhook.packed"):
    order: int
    label: object = None
    customer: dict[str, Any] | None = None


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _packed(**changes: Any) -> Packed:
    request = RequestInfo(request_id="r1", path="/orders", traceparent=TRACEPARENT)
    return Packed(order=17).model_copy(update={"id": UUID(int=1), "at": AT, "request": request} | changes)


def _read(request: Received) -> Any:
    return from_http_event(HTTPMessage(dict(request.headers), request.body))


@pytest.mark.parametrize("mode", MODES)
async def test_the_reference_library_reads_every_attribute(collector: Collector, mode: Any) -> None:
    """Both modes say the same."""
    async with Webhook(
        url=collector.url,
        format=mode,
        source="https://shop.example/a?b=%20c",
        type_prefix="com.example.",
        subject="order",
    ) as sink:
        await sink.send(_packed(label="grün"))
    event = _read(collector.received[0])
    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": str(UUID(int=1)),
        "source": "https://shop.example/a?b=%20c",
        "type": "com.example.test_webhook.packed",
        "time": AT,
        "datacontenttype": "application/json",
        "subject": "17",
        "traceparent": TRACEPARENT,
    }
    assert event.get_data() == {"order": 17, "label": "grün", "customer": None}


async def test_binary_mode_on_the_wire(collector: Collector) -> None:
    """Attributes in `ce-` headers, the data alone in the body, its type in `Content-Type`."""
    async with Webhook(url=collector.url, format="cloudevents-binary", source="/shop") as sink:
        await sink.send(_packed())
    [request] = collector.received
    assert request.headers["content-type"] == "application/json"
    assert request.body == b'{"order":17,"label":null,"customer":null}'
    assert {name: value for name, value in request.headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": str(UUID(int=1)),
        "ce-source": "/shop",
        "ce-type": "test_webhook.packed",
        "ce-time": "2026-03-04T05:06:07.891234Z",
        "ce-traceparent": TRACEPARENT,
    }


async def test_in_structured_mode_no_attribute_is_a_header(collector: Collector) -> None:
    """Receivers tell the modes apart by them."""
    async with Webhook(url=collector.url) as sink:
        await sink.send(_packed())
    [request] = collector.received
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert not [name for name in request.headers if name.startswith("ce-")]


@pytest.mark.parametrize(
    ("label", "encoded"),
    [
        ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),  # the example of the HTTP binding, 3.1.3.2
        ('5% "off"', "5%25%20%22off%22"),
        ("a,b;c=d/e:f@g", "a,b;c=d/e:f@g"),
        ("%0d%0aX-Injected: 1", "%250d%250aX-Injected:%201"),
    ],
)
async def test_header_values_are_percent_encoded(collector: Collector, label: str, encoded: str) -> None:
    """By the HTTP binding: blank, quote, percent and all that is not ASCII, and nothing else."""
    async with Webhook(url=collector.url, format="cloudevents-binary", subject="label") as sink:
        await sink.send(_packed(label=label))
    [request] = collector.received
    assert request.headers["ce-subject"] == encoded
    assert _read(request).get_subject() == label
    assert "x-injected" not in request.headers


@pytest.mark.parametrize("mode", [*MODES, "json"])
async def test_the_signature_covers_the_body_of_every_form(collector: Collector, mode: Any) -> None:
    """The reference implementation verifies it."""
    async with Webhook(url=collector.url, format=mode, secret=SecretStr(SECRET)) as sink:
        await sink.send(_packed())
    [request] = collector.received
    standardwebhooks.Webhook(SECRET).verify(request.body, dict(request.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(request.body + b" ", dict(request.headers))


@pytest.mark.parametrize("mode", MODES)
async def test_the_same_event_is_the_same_cloudevent(collector: Collector, mode: Any) -> None:
    """Source and id stay through a retry, so that a receiver can drop duplicates by them as the spec has it."""
    collector.answer(503)
    async with Webhook(url=collector.url, format=mode) as sink:
        with pytest.raises(TransientError):
            await sink.send(_packed())
        await sink.send(_packed())
    first, second = collector.received
    assert _read(first).get_attributes() == _read(second).get_attributes()
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == _read(first).get_id()


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("order", "17"),
        ("label", None),
        ("customer.id", "c-9"),
        ("customer.name", None),
        ("customer.id.deeper", None),
        ("nowhere.at.all", None),
    ],
)
async def test_the_subject_is_a_field_where_the_event_has_it(
    collector: Collector, path: str, subject: str | None
) -> None:
    """Also one further in; an event without it has none, for a sink takes events of many kinds."""
    async with Webhook(url=collector.url, subject=path) as sink:
        await sink.send(_packed(customer={"id": "c-9", "name": ""}))
    assert _read(collector.received[0]).get_subject() == subject


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "label", ["two\r\nlines: s3cret", "\x00s3cret", "s3cret" * 50, "\ud800s3cret", True, ["s3cret"]]
)
async def test_what_cannot_be_a_subject_is_permanent(collector: Collector, mode: Any, label: object) -> None:
    """Control characters, no end, no text: rejected by the setting's and the field's name, unsent."""
    async with Webhook(url=collector.url, format=mode, subject="label") as sink:
        with pytest.raises(PermanentError, match=r"kind test_webhook\.packed") as refused:
            await sink.send(_packed(label=label))
    assert "s3cret" not in str(refused.value)
    assert collector.received == []


async def test_plain_json_has_the_prefix_too(collector: Collector) -> None:
    """The receiver's names do not depend on the form."""
    async with Webhook(url=collector.url, format="json", type_prefix="com.example.") as sink:
        await sink.send(_packed())
    assert collector.received[0].json()["type"] == "com.example.test_webhook.packed"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"type_prefix": "my shop."}, "type_prefix: must be ASCII"),
        ({"type_prefix": "a\r\nb"}, "type_prefix: must be ASCII"),
        ({"subject": ""}, "subject: empty"),
        ({"subject": "order", "format": "json"}, "subject: is of CloudEvents"),
        ({"headers": {"CE-Type": SecretStr("x")}}, "headers: CE-Type is a CloudEvents attribute"),
    ],
)
def test_a_wrong_setting_is_refused_at_construction(settings: dict[str, Any], complaint: str) -> None:
    """With the setting's name and the remedy."""
    with pytest.raises(ValueError, match=complaint):
        Webhook(**dict[str, Any](url="https://hooks.example/") | settings)


@pytest.mark.parametrize("mode", [*MODES, "json"])
async def test_every_form_passes_the_conformance_suite(collector: Collector, mode: Any) -> None:
    """With all that there is to set."""
    settings: dict[str, Any] = {} if mode == "json" else {"subject": "order"}
    await check_sink(
        lambda: Webhook(
            url=collector.url,
            format=mode,
            secret=[SecretStr(SECRET)],
            type_prefix="com.example.",
            allow_private=["127.0.0.1/32"],
            **settings,
        ),
        [_packed(id=UUID(int=2)), _packed(id=UUID(int=3))],
        secrets=[SECRET, "k" * 32],
    )
