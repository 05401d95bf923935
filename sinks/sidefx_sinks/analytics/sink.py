"""`Analytics`: batches of `TrackEvent` to Segment, PostHog, or any collector that takes JSON."""

from __future__ import annotations

import gzip as gzip_format
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, SecretStr

from sidefx import PartialError, PermanentError, TrackEvent, TransientError
from sidefx_sinks import _http
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.analytics.chunk import Chunk, Item, body, encode, halves, pack
from sidefx_sinks.analytics.generic import GENERIC
from sidefx_sinks.analytics.posthog import POSTHOG
from sidefx_sinks.analytics.preset import Preset, Visit
from sidefx_sinks.analytics.segment import SEGMENT

_PRESETS: dict[str, Preset] = {"segment": SEGMENT, "posthog": POSTHOG, "json": GENERIC}

# Compressing 500 kB takes some 5 to 20 ms of the event loop; with gzip no events are put together beyond that.
_MAX_GZIP_BYTES = 500_000

_TOO_LARGE = 413


class Analytics:
    """Sends each batch as one request, or as several where the vendor's caps ask for it.

    The event's id is the vendor's message id, so that a repeated delivery is counted once.
    """

    def __init__(
        self,
        *,
        preset: Annotated[
            Literal["segment", "posthog", "json"], Field(description="Whose format, path and caps to use.")
        ] = "json",
        url: Annotated[
            _http.Url | None,
            Field(
                description="segment, posthog: the base address, to which the preset adds its path "
                "(default: https://api.segment.io, https://us.i.posthog.com). json: the address itself; required."
            ),
        ] = None,
        write_key: Annotated[
            Secret | None,
            Field(description="Segment's write key or PostHog's project API key; required for both."),
        ] = None,
        headers: Annotated[
            dict[str, Secret] | None,
            Field(description="Further headers of every request, such as Authorization for the preset json."),
        ] = None,
        gzip: Annotated[bool, Field(description="Whether to compress the requests' bodies.")] = False,
        request_context: Annotated[
            bool,
            Field(description="Whether the IP address, user agent and path of the event's request go along."),
        ] = True,
    ) -> None:
        self._name = preset
        self._preset = _PRESETS[preset]
        self._key = _checked_key(preset, self._preset, write_key)
        base = url or self._preset.url
        if base is None:
            msg = f"url: the preset {preset} has no address of its own; set the URL to send to"
            raise ValueError(msg)
        self._url = _address(_http.checked_url(base), self._preset.path)
        self._headers = _http.checked_headers(
            headers,
            reserved={"content-type", "content-encoding"} | ({"authorization"} if self._preset.basic_auth else set()),
        )
        self._gzip = gzip
        self._request_context = request_context
        self._client: _http.Client | None = None

    async def __aenter__(self) -> Self:
        self._client = _http.open_client(
            headers={
                **self._headers,
                "Content-Type": "application/json",
                **({"Content-Encoding": "gzip"} if self._gzip else {}),
            },
            auth=(self._key, "") if self._preset.basic_auth else None,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def check(self) -> None:
        """Whether the host answers; sends no event, so it cannot tell whether the key is right."""
        await _http.reach(self._opened(), self._url)

    async def send_batch(self, events: Sequence[TrackEvent]) -> None:
        """Deliver all, or say which were not.

        After a transient failure the chunks behind it are not tried: they fail with the same error.

        Raises:
            TransientError, PermanentError: all events failed, for this one reason.
            PartialError: these failed; the others have been delivered and need not be sent again.
        """
        failures: dict[UUID, Exception] = {}
        waiting = deque(self._chunks(self._items(events, failures)))
        while waiting:
            chunk = waiting.popleft()
            try:
                taken = await self._post(chunk)
            except PermanentError as error:
                failures.update((item.id, error) for item in chunk)
            except TransientError as error:
                failures.update((item.id, error) for rest in (chunk, *waiting) for item in rest)
                break
            else:
                if not taken and len(chunk) > 1:
                    waiting.extendleft(reversed(halves(chunk)))
                elif not taken:
                    failures[chunk[0].id] = self._too_large(chunk[0], "the receiver refuses that with 413")
        if failures:
            raise self._failed(failures, of=len(events))

    async def _post(self, chunk: Chunk) -> bool:
        """Whether the receiver took the chunk; it did not where it found it too large."""
        content = body(self._envelope(), chunk)
        if self._gzip:
            content = gzip_format.compress(content, compresslevel=1, mtime=0)
        answer = await _http.request(self._opened(), "POST", self._url, content=content, accept={_TOO_LARGE})
        return answer.status_code != _TOO_LARGE

    def _items(self, events: Sequence[TrackEvent], failures: dict[UUID, Exception]) -> Iterator[Item]:
        """The events in the vendor's form; those that have none go to `failures`."""
        cap = self._preset.max_event_bytes or self._max_chunk_bytes(self._preset.max_batch_bytes)
        for event in events:
            visit = Visit.of(event) if self._request_context else Visit()
            try:
                item = Item(event.id, encode(self._preset.item(event, visit)))
            except ValueError as error:
                refusal = PermanentError("its properties or context hold what JSON has no form for; pass plain values")
                refusal.__cause__ = error
                failures[event.id] = refusal
                continue
            if cap is not None and len(item.json) > cap:
                failures[event.id] = self._too_large(item, f"{self._name} takes at most {cap:,}")
                continue
            yield item

    def _chunks(self, items: Iterator[Item]) -> Iterator[Chunk]:
        caps = [cap for cap in (self._preset.max_batch_bytes, _MAX_GZIP_BYTES if self._gzip else None) if cap]
        return pack(
            items,
            max_bytes=self._max_chunk_bytes(min(caps, default=None)),
            max_events=self._preset.max_batch_events,
        )

    def _max_chunk_bytes(self, max_body_bytes: int | None) -> int | None:
        """What of a body is left for events."""
        return None if max_body_bytes is None else max_body_bytes - len(body(self._envelope(), ()))

    def _envelope(self) -> dict[str, object]:
        return self._preset.envelope(self._key.get_secret_value(), datetime.now(UTC))

    def _opened(self) -> _http.Client:
        if self._client is None:
            msg = "the analytics sink is not open: enter it with `async with`"
            raise RuntimeError(msg)
        return self._client

    @staticmethod
    def _too_large(item: Item, limit: str) -> PermanentError:
        return PermanentError(f"the event is {len(item.json):,} bytes of JSON; {limit}: send less in its properties")

    @staticmethod
    def _failed(failures: dict[UUID, Exception], *, of: int) -> Exception:
        reasons = set(failures.values())
        return reasons.pop() if len(failures) == of and len(reasons) == 1 else PartialError(failures)


def _address(url: str, path: str) -> str:
    if not path:
        return url
    if "?" in url or "#" in url:
        msg = "url: a base address, to which the preset adds its path, has no query"
        raise ValueError(msg)
    return url.rstrip("/") + path


def _checked_key(name: str, preset: Preset, write_key: SecretStr | str | None) -> SecretStr:
    secret = as_secret(write_key or "")
    key = secret.get_secret_value()
    if preset.needs_key and not key:
        msg = f"write_key: the preset {name} needs the project's key"
        raise ValueError(msg)
    if key and not preset.needs_key:
        msg = f"write_key: the preset {name} does not use it; set headers.Authorization"
        raise ValueError(msg)
    if not key.isascii() or not key.isprintable() or ":" in key or " " in key:
        msg = "write_key: holds a character that no key has, such as a space, a colon or a line break"
        raise ValueError(msg)
    return secret
