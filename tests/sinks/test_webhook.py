"""The sink `webhook`: CloudEvents and plain JSON, signed by the Standard Webhooks scheme."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import standardwebhooks
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from pydantic import SecretStr, field_serializer

from sidefx import AuditEvent, Event, PermanentError, TransientError, audit
from sidefx.request import Client, RequestInfo
from sidefx.sink import inspect_sink
from sidefx_sinks.webhook import Webhook
from tests.sinks.collector import Collector, Received

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 64).decode()
AT = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Shipped(Event, kind="test_webhook.shipped"):
    order: int
    weight: Decimal = Decimal("1.50")
    note: object = None

    @field_serializer("weight")
    def _as_text(self, weight: Decimal) -> str:
        return f"{weight} kg"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _shipped(**changes: Any) -> Shipped:
    request = RequestInfo(request_id="r1", path="/orders", client=Client("203.0.113.9", 4711), traceparent=TRACEPARENT)
    return Shipped(order=17).model_copy(update={"id": UUID(int=1), "at": AT, "request": request} | changes)


def _verified(request: Received, secret: str) -> Any:
    return standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))


def test_it_takes_every_event() -> None:
    """The lane reads from the annotation what to route to it."""
    spec = inspect_sink(Webhook(url="https://hooks.example/"))
    assert (spec.event_types, spec.batch, spec.synchronous, spec.asyncio_only) == ((Event,), False, False, False)
    assert spec.accepts(AuditEvent)


async def test_a_cloudevent_is_sent_in_structured_mode(collector: Collector) -> None:
    """The attributes of CloudEvents 1.0 beside the event's own fields; nothing else of its request but the trace."""
    async with Webhook(url=f"{collector.url}/hook?app=shop", source="/shop") as sink:
        await sink.send(_shipped())
    [request] = collector.received
    assert (request.method, request.path) == ("POST", "/hook?app=shop")
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.json() == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000001",
        "source": "/shop",
        "type": "test_webhook.shipped",
        "time": "2026-03-04T05:06:07.891234Z",
        "datacontenttype": "application/json",
        "traceparent": TRACEPARENT,
        "data": {"order": 17, "weight": "1.50 kg", "note": None},
    }


async def test_the_cloudevents_library_reads_it(collector: Collector) -> None:
    """The reference implementation takes it for a valid event."""
    async with Webhook(url=collector.url) as sink:
        await sink.send(audit("order.create", actor=1))
    [request] = collector.received
    event = from_http_event(HTTPMessage(dict(request.headers), request.body))
    assert (event.get_type(), event.get_source(), event.get_specversion()) == ("audit", "sidefx", "1.0")
    data: Any = event.get_data()
    assert data["action"] == "order.create"


async def test_plain_json_is_what_standard_webhooks_recommends(collector: Collector) -> None:
    """Type, timestamp and data, and the id."""
    async with Webhook(url=collector.url, format="json") as sink:
        await sink.send(_shipped())
    [request] = collector.received
    assert request.headers["content-type"] == "application/json"
    assert request.json() == {
        "id": "00000000-0000-0000-0000-000000000001",
        "type": "test_webhook.shipped",
        "timestamp": "2026-03-04T05:06:07.891234Z",
        "data": {"order": 17, "weight": "1.50 kg", "note": None},
    }


@pytest.mark.parametrize("form", ["cloudevents", "json"])
async def test_the_signature_verifies(collector: Collector, form: Any) -> None:
    """With the reference implementation; and not with another secret, nor for another body."""
    async with Webhook(url=collector.url, secret=SecretStr(NEW), format=form) as sink:
        await sink.send(_shipped(note="grün"))
    [request] = collector.received
    assert _verified(request, NEW)["data"]["note"] == "grün"
    assert request.headers["webhook-id"] == str(UUID(int=1))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        _verified(request, OLD)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(NEW).verify(request.body + b" ", dict(request.headers))


async def test_the_signature_is_that_of_the_specification(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Id, timestamp and body, joined by dots, under HMAC-SHA256: equal to what the reference makes of them."""
    monkeypatch.setattr("sidefx_sinks.webhook.signature.time", SimpleNamespace(time=lambda: 1_700_000_000.9))
    async with Webhook(url=collector.url, secret=SecretStr(OLD)) as sink:
        await sink.send(_shipped())
    [request] = collector.received
    assert request.headers["webhook-timestamp"] == "1700000000"
    assert request.headers["webhook-signature"] == standardwebhooks.Webhook(OLD).sign(
        request.headers["webhook-id"], datetime.fromtimestamp(1_700_000_000, UTC), request.body.decode()
    )


async def test_a_rotation_is_signed_by_both(collector: Collector) -> None:
    """Receivers with the old and with the new secret both accept it."""
    async with Webhook(url=collector.url, secret=[SecretStr(NEW), SecretStr(OLD)]) as sink:
        await sink.send(_shipped())
    [request] = collector.received
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    assert _verified(request, NEW) == _verified(request, OLD)


async def test_a_retry_keeps_its_id_and_takes_a_new_timestamp(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the receiver can drop duplicates, and a late retry is not taken for a replay attack."""
    clock = iter([1_700_000_000.0, 1_700_000_060.0])
    monkeypatch.setattr("sidefx_sinks.webhook.signature.time", SimpleNamespace(time=lambda: next(clock)))
    collector.answer(503)
    event = _shipped()
    async with Webhook(url=collector.url, secret=SecretStr(NEW)) as sink:
        with pytest.raises(TransientError):
            await sink.send(event)
        await sink.send(event)
    first, second = (request.headers for request in collector.received)
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1700000000", "1700000060")
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_without_a_secret_there_is_no_signature(collector: Collector) -> None:
    """Id and timestamp are there all the same."""
    async with Webhook(url=collector.url) as sink:
        await sink.send(_shipped())
    [request] = collector.received
    assert "webhook-signature" not in request.headers
    assert request.headers["webhook-id"] == str(UUID(int=1))


async def test_configured_headers_are_sent(collector: Collector) -> None:
    """Authorization, for one."""
    async with Webhook(url=collector.url, headers={"Authorization": SecretStr("Bearer s3cret")}) as sink:
        await sink.send(_shipped())
    assert collector.received[0].headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_is_a_delivery(collector: Collector, status: int) -> None:
    """As Standard Webhooks has it."""
    collector.answer(status)
    async with Webhook(url=collector.url) as sink:
        await sink.send(_shipped())
    assert len(collector.received) == 1


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (429, TransientError, ""),
        (502, TransientError, ""),
        (302, PermanentError, "redirects are not followed"),
        (400, PermanentError, "check that url and format"),
        (401, PermanentError, "Authorization"),
        (404, PermanentError, "check url"),
        (410, PermanentError, "gone for good: remove this sink or change its url"),
    ],
)
async def test_every_other_answer_is_a_failure(
    collector: Collector, status: int, kind: type[Exception], says: str
) -> None:
    """Transient or permanent by its status, in one request."""
    collector.answer(status, {"Location": "/x"} if status == 302 else {"Retry-After": "5"})
    async with Webhook(url=collector.url) as sink:
        with pytest.raises(kind, match=rf"answered {status}.*{says}") as caught:
            await sink.send(_shipped())
    assert len(collector.received) == 1
    assert getattr(caught.value, "retry_after", 5) == 5


async def test_an_event_without_json_form_is_permanent(collector: Collector) -> None:
    """Trying again would not give it one; the message names its kind and not its content."""
    async with Webhook(url=collector.url) as sink:
        with pytest.raises(PermanentError, match=r"kind test_webhook\.shipped"):
            await sink.send(_shipped(note=object()))
    assert collector.received == []


@pytest.mark.contract("F03")
async def test_secrets_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Neither secret, header nor the path of the URL is in the repr, an error or a log."""
    caplog.set_level(logging.DEBUG)
    with Collector() as collector:
        collector.answer(404)
        sink = Webhook(
            url=f"{collector.url}/s3cret", secret=SecretStr(NEW), headers={"Authorization": SecretStr("Bearer s3cret")}
        )
        async with sink:
            with pytest.raises(PermanentError) as refused:
                await sink.send(_shipped())
    async with sink:
        with pytest.raises(TransientError, match=rf"POST {collector.host} failed: Connection refused") as gone:
            await sink.send(_shipped())
        with pytest.raises(TransientError, match=rf"HEAD {collector.host} failed: Connection refused") as unchecked:
            await sink.check()
    shown = f"{sink!r}{caplog.text}{refused.value!r}{gone.value!r}{unchecked.value!r}"
    assert "s3cret" not in shown
    assert NEW.removeprefix("whsec_") not in shown


async def test_check_posts_nothing(collector: Collector) -> None:
    """It asks for a sign of life from the host, not from the hook."""
    collector.answer(405)
    async with Webhook(url=f"{collector.url}/hook") as sink:
        await sink.check()
    assert [(request.method, request.path) for request in collector.received] == [("HEAD", "/")]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"url": "/hook"}, "https://host/path"),
        ({"secret": SecretStr("s3cret")}, "secret: must be whsec_"),
        ({"secret": SecretStr(NEW.removeprefix("whsec_"))}, "secret: must be whsec_"),
        ({"secret": SecretStr("whsec_" + base64.b64encode(b"s3cret").decode())}, "24 to 64 bytes"),
        ({"secret": SecretStr("whsec_s3cret!" + "a" * 40)}, "secret: must be whsec_"),
        ({"secret": SecretStr("")}, "secret: empty"),
        ({"secret": []}, "secret: empty"),
        ({"secret": [SecretStr(NEW), SecretStr("whsec_")]}, "secret: must be whsec_"),
        ({"source": ""}, "source: must be a URI reference"),
        ({"source": "my shop\r\n"}, "source: must be a URI reference"),
        ({"headers": {"X-Token": SecretStr("s3cret\r\nX: y")}}, "headers: the value of X-Token"),
        ({"headers": {"Webhook-Signature": SecretStr("v1,x")}}, "headers: Webhook-Signature is set by the sink"),
        ({"headers": {"Content-Type": SecretStr("text/plain")}}, "headers: Content-Type is set by the sink"),
    ],
)
def test_a_wrong_setting_is_refused_at_construction(settings: dict[str, Any], complaint: str) -> None:
    """With the setting's name and the remedy, and without its value."""
    with pytest.raises(ValueError, match=complaint) as caught:
        Webhook(**dict[str, Any](url="https://hooks.example/") | settings)
    assert "s3cret" not in str(caught.value)


def test_a_secret_may_come_without_its_padding() -> None:
    """Some issuers leave the base64's `=` out."""
    key = base64.b64encode(b"k" * 25).decode()
    assert Webhook(url="https://hooks.example/", secret=SecretStr(f"whsec_{key.rstrip('=')}"))


async def test_a_sink_that_is_not_open_says_so() -> None:
    """Rather than opening a client that nobody closes."""
    with pytest.raises(RuntimeError, match="async with"):
        await Webhook(url="https://hooks.example/").send(_shipped())
