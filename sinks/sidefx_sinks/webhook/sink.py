"""`Webhook`: any event to a URL, signed, one request for each."""

from __future__ import annotations

import logging
from typing import Annotated, Self

from pydantic import Field

from sidefx import Event, PermanentError, TransientError
from sidefx_sinks import _http
from sidefx_sinks._secret import Secret
from sidefx_sinks.webhook import signature
from sidefx_sinks.webhook.guard import Guard
from sidefx_sinks.webhook.message import HEADER_PREFIX, Format, Writer

_log = logging.getLogger("sidefx.sinks.webhook")

_CONFLICT = 409  # to an idempotency key: the first request with it is still being worked on
_GONE = 410


class Webhook:
    """Posts one event per request; only an answer of 2xx is a delivery.

    The event's id is the `webhook-id`, the same through every retry, so that the receiver can drop
    duplicates. A receiver that says 410 gets no further request from this object.
    """

    def __init__(
        self,
        *,
        url: Annotated[_http.Url, Field(description="Where to post to, used as given.")],
        secret: Annotated[
            Secret | list[Secret] | None,
            Field(
                description="Signs each request: `whsec_` and the base64 of 24 to 64 random bytes, or `whsk_` and that "
                "of an Ed25519 key. A list signs with each, while receivers change over to a new one. Without it, "
                "requests are not signed."
            ),
        ] = None,
        format: Annotated[  # noqa: A002 - the setting's name
            Format,
            Field(
                description="cloudevents: structured CloudEvents 1.0, all in the body. cloudevents-binary: the data in "
                "the body, the attributes in headers. json: id, type, timestamp and data."
            ),
        ] = "cloudevents",
        source: Annotated[
            str, Field(min_length=1, description="The CloudEvents `source`: a URI reference that names this app.")
        ] = "sidefx",
        type_prefix: Annotated[
            str, Field(description="Stands before the event's kind in `type`, such as `com.example.`.")
        ] = "",
        subject: Annotated[
            str | None,
            Field(
                min_length=1,
                description="The field whose value is the CloudEvents `subject`, such as `order_id` or `customer.id`; "
                "an event without it has none.",
            ),
        ] = None,
        headers: Annotated[
            dict[str, Secret] | None,
            Field(description="Further headers of every request, such as Authorization."),
        ] = None,
        allow_private: Annotated[
            bool | list[str],
            Field(
                description="false: connects to public addresses alone, checked at each request. A list of networks, "
                "such as `10.20.0.0/16`: to those as well. true: to any."
            ),
        ] = True,
    ) -> None:
        self._url = _http.checked_url(url)
        self._signers = signature.signers(secret)
        self._writer = Writer(format, source=source, type_prefix=type_prefix, subject=subject)
        self._headers = _http.checked_headers(headers, reserved=("content-type", *signature.HEADERS))
        if taken := [name for name in self._headers if name.lower().startswith(HEADER_PREFIX)]:
            msg = f"headers: {taken[0]} is a CloudEvents attribute, which only the sink sets; remove it"
            raise ValueError(msg)
        self._guard: Guard | None = None
        if allow_private is not True:
            self._guard = Guard(allow_private or ())
            self._guard.check(url)
        self._gone: str | None = None
        self._client: _http.Client | None = None

    async def __aenter__(self) -> Self:
        self._client = _http.open_client(
            headers={**self._headers, "Content-Type": self._writer.media_type},
            proxies=self._guard is None,  # a proxy would look the name up by itself, past the guard
        )
        if self._guard is not None:
            self._guard.watch(self._client)
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def check(self) -> None:
        """Whether the host answers; posts nothing, so it cannot tell whether path and secret are right.

        Raises:
            TransientError: it does not.
            PermanentError: the receiver has said 410, or its address is one that is not allowed.
        """
        if self._gone is not None:
            raise PermanentError(self._gone)
        await _http.reach(self._opened(), self._url)

    async def send(self, event: Event) -> None:
        """Post it once.

        Raises:
            TransientError: no answer, or one that says "later".
            PermanentError: it was refused, it cannot be written, or the receiver has said 410 before.
        """
        if self._gone is not None:
            msg = f"not sent: {self._gone}"
            raise PermanentError(msg)
        message = self._writer.write(event)
        headers = message.headers | signature.signed_headers(self._signers, str(event.id), message.body)
        try:
            answer = await _http.request(
                self._opened(), "POST", self._url, content=message.body, headers=headers, accept={_CONFLICT, _GONE}
            )
        except PermanentError:
            raise
        except BaseException:  # the lane's timeout too: an address that swallows packets shows in no other way
            if self._guard is not None:
                self._guard.turn()
            raise
        host = answer.url.netloc.decode()
        if answer.status_code == _CONFLICT:
            msg = f"POST {host} answered 409 Conflict: it may still be at work on an earlier attempt"
            raise TransientError(msg, retry_after=_http.retry_after(answer))
        if answer.status_code == _GONE:
            raise PermanentError(self._disabled(host))

    def _disabled(self, host: str) -> str:
        """Send nothing more: say why, to the log once, and to every event from now on."""
        if self._gone is None:
            self._gone = (
                f"POST {host} answered 410 Gone: the receiver is gone for good: remove this sink or change its url, "
                "then restart and replay the dead letters"
            )
            _log.critical("webhook disabled, every further event is rejected unsent: %s", self._gone)
        return self._gone

    def _opened(self) -> _http.Client:
        if self._client is None:
            msg = "the webhook sink is not open: enter it with `async with`"
            raise RuntimeError(msg)
        return self._client
