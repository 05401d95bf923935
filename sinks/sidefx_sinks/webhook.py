"""`Webhook`: any event to a URL, as a CloudEvent or plain JSON, signed by the Standard Webhooks scheme.

CloudEvents 1.0, JSON format and HTTP binding (structured mode): https://github.com/cloudevents/spec
Standard Webhooks 1.0: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr
from pydantic_core import to_json

from sidefx import Event, PermanentError
from sidefx_sinks import _http
from sidefx_sinks._secret import Secret, as_secret

_ENVELOPE = {"id", "at", "request"}  # the fields of every event, which are not its data
_SECRET_PREFIX = "whsec_"  # noqa: S105 - says that what follows is one
_KEY_BYTES = range(24, 65)
_URI_REFERENCE = re.compile(r"[!-~]+")  # RFC 3986: ASCII without blanks
_RESERVED_HEADERS = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")


class Webhook:
    """Posts one event per request; only an answer of 2xx is a delivery.

    The event's id is the `webhook-id`, the same through every retry, so that the receiver can drop duplicates.
    """

    def __init__(
        self,
        *,
        url: Annotated[_http.Url, Field(description="Where to post to, used as given.")],
        secret: Annotated[
            Secret | list[Secret] | None,
            Field(
                description="Signs each request: `whsec_` and the base64 of 24 to 64 random bytes. A list signs with "
                "each, while receivers change over to a new one. Without it, requests are not signed."
            ),
        ] = None,
        format: Annotated[  # noqa: A002 - the setting's name
            Literal["cloudevents", "json"],
            Field(description="cloudevents: structured CloudEvents 1.0. json: id, type, timestamp and data."),
        ] = "cloudevents",
        source: Annotated[
            str, Field(min_length=1, description="The CloudEvents `source`: a URI reference that names this app.")
        ] = "sidefx",
        headers: Annotated[
            dict[str, Secret] | None,
            Field(description="Further headers of every request, such as Authorization."),
        ] = None,
    ) -> None:
        self._url = _http.checked_url(url)
        self._keys = _signing_keys(secret)
        self._encode = self._cloudevent if format == "cloudevents" else _plain
        self._content_type = f"application/{'cloudevents+json' if format == 'cloudevents' else 'json'}"
        if not _URI_REFERENCE.fullmatch(source):
            msg = "source: must be a URI reference, such as /shop or https://shop.example: ASCII without blanks"
            raise ValueError(msg)
        self._source = source
        self._headers = _http.checked_headers(headers, reserved=_RESERVED_HEADERS)
        self._client: _http.Client | None = None

    async def __aenter__(self) -> Self:
        self._client = _http.open_client(headers={**self._headers, "Content-Type": self._content_type})
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def check(self) -> None:
        """Whether the host answers; posts nothing, so it cannot tell whether path and secret are right."""
        await _http.reach(self._opened(), self._url)

    async def send(self, event: Event) -> None:
        """Post it once.

        Raises:
            TransientError: no answer, or one that says "later".
            PermanentError: it was refused, or the event has no JSON form.
        """
        try:
            body = self._encode(event)
        except ValueError as error:
            msg = f"an event of kind {event.kind} holds what JSON has no form for; give its field a serializer"
            raise PermanentError(msg) from error
        await _http.request(self._opened(), "POST", self._url, content=body, headers=self._signed(str(event.id), body))

    def _signed(self, message_id: str, body: bytes) -> dict[str, str]:
        """The Standard Webhooks headers of one attempt; the timestamp is in whole seconds."""
        timestamp = str(int(time.time()))
        headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
        if self._keys:
            signed = f"{message_id}.{timestamp}.".encode() + body
            headers["webhook-signature"] = " ".join(f"v1,{_signature(key, signed)}" for key in self._keys)
        return headers

    def _cloudevent(self, event: Event) -> bytes:
        attributes = {
            "specversion": "1.0",
            "id": str(event.id),
            "source": self._source,
            "type": event.kind,
            "time": event.at,
            "datacontenttype": "application/json",
        }
        if event.request is not None and event.request.traceparent is not None:
            attributes["traceparent"] = event.request.traceparent  # the extension "Distributed Tracing"
        return _with_data(attributes, event)

    def _opened(self) -> _http.Client:
        if self._client is None:
            msg = "the webhook sink is not open: enter it with `async with`"
            raise RuntimeError(msg)
        return self._client


def _plain(event: Event) -> bytes:
    """The payload that Standard Webhooks recommends, and the id."""
    return _with_data({"id": str(event.id), "type": event.kind, "timestamp": event.at}, event)


def _with_data(attributes: dict[str, Any], event: Event) -> bytes:
    # The event writes its own JSON: a model's config and serializers hold only there.
    return to_json(attributes)[:-1] + b',"data":' + event.model_dump_json(exclude=_ENVELOPE).encode() + b"}"


def _signing_keys(secret: SecretStr | str | list[SecretStr | str] | None) -> list[bytes]:
    if secret is None:
        return []
    if not secret:  # a rotation that lost its last secret must not turn signing off
        msg = "secret: empty; give at least one, or leave it out to send unsigned requests"
        raise ValueError(msg)
    return [_signing_key(each) for each in (secret if isinstance(secret, list) else [secret])]


def _signing_key(secret: SecretStr | str) -> bytes:
    text = as_secret(secret).get_secret_value()
    encoded = text.removeprefix(_SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if encoded == text or len(key) not in _KEY_BYTES:
        msg = "secret: must be whsec_ followed by the base64 of 24 to 64 bytes, as Standard Webhooks has it"
        raise ValueError(msg)
    return key


def _signature(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
