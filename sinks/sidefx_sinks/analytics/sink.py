"""`Analytics`: batches of `TrackEvent` to Segment, PostHog, GA4, an OTLP receiver, or any collector that takes JSON."""

from __future__ import annotations

import gzip as gzip_format
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self
from uuid import UUID

import anyio
from pydantic import Field, ImportString
from pydantic_core import from_json

from sidefx import PartialError, PermanentError, TrackEvent, TransientError
from sidefx_sinks import _http
from sidefx_sinks._secret import Secret
from sidefx_sinks.analytics.admission import Admission, BeforeSend
from sidefx_sinks.analytics.chunk import Chunk, Frame, Item, body, encode, pack
from sidefx_sinks.analytics.discards import Discard, Discards
from sidefx_sinks.analytics.preset import RefusedError, Verdict, Visit
from sidefx_sinks.analytics.target import PresetName, Target

# Compressing 500 kB takes some 5 to 20 ms of the event loop; with gzip no events are put together beyond that.
_MAX_GZIP_BYTES = 500_000

_TOO_LARGE = 413
_MAX_ANSWER_BYTES = 1_000_000
_MAX_TAKEN = 10_000
"""Events; one that is forgotten is sent again with the rest of a batch that was cut off."""
_STRICT = {"validation_behavior": "ENFORCE_RECOMMENDATIONS"}


class Analytics:
    """Sends each batch as one request, or as several where the vendor's caps ask for it.

    The event's id is the vendor's message id, so that a repeated delivery is counted once.
    """

    def __init__(
        self,
        *,
        preset: Annotated[PresetName, Field(description="Whose format, path and caps to use.")] = "json",
        url: Annotated[
            _http.Url | None,
            Field(
                description="The vendor's base address, to which the preset adds its path (each has a default). "
                "json: the address itself, used as given; required."
            ),
        ] = None,
        write_key: Annotated[
            Secret | None,
            Field(description="Segment's write key, PostHog's project API key or GA4's API secret; required for them."),
        ] = None,
        measurement_id: Annotated[
            str | None, Field(description="ga4: of the web stream, such as G-ABC123XYZ9.")
        ] = None,
        validate: Annotated[
            bool, Field(description="ga4: whether its validation server sees each request first, and may refuse it.")
        ] = False,
        resource: Annotated[
            dict[str, str] | None, Field(description="otlp: the resource's attributes, such as service.name.")
        ] = None,
        headers: Annotated[
            dict[str, Secret] | None,
            Field(description="Further headers of every request, such as Authorization for json and otlp."),
        ] = None,
        gzip: Annotated[bool, Field(description="Whether to compress the requests' bodies.")] = False,
        request_context: Annotated[
            bool,
            Field(description="Whether the IP address, user agent and path of the event's request go along."),
        ] = True,
        require_consent: Annotated[
            Sequence[str],
            Field(description="Categories that an event's `consent` has to grant; others are not sent, and counted."),
        ] = (),
        sample_users: Annotated[
            float, Field(ge=0, le=1, description="The share of users whose events are sent, all of them or none.")
        ] = 1.0,
        before_send: Annotated[
            ImportString[BeforeSend] | None,
            Field(
                description="module:function that gets each event and returns it, a changed one, or None to drop it."
            ),
        ] = None,
        proxy: Annotated[
            Secret | None,
            Field(description="http(s) URL of a proxy; without it, HTTPS_PROXY and NO_PROXY are honoured."),
        ] = None,
        ca_file: Annotated[Path | None, Field(description="PEM: the only authorities to trust.")] = None,
        client_cert: Annotated[Path | None, Field(description="PEM: the certificate to show to the receiver.")] = None,
        client_key: Annotated[
            Path | None, Field(description="PEM: its key, where client_cert does not hold it.")
        ] = None,
        client_key_password: Annotated[Secret | None, Field(description="Of an encrypted client_key.")] = None,
        verify: Annotated[
            bool, Field(description="false trusts whoever answers, and warns of it: for tests alone.")
        ] = True,
    ) -> None:
        self._target = Target(
            preset,
            url=url,
            write_key=write_key,
            headers=headers,
            measurement_id=measurement_id,
            resource=resource,
            validate=validate,
        )
        self._preset = self._target.preset
        self._admission = Admission(require_consent=require_consent, sample_users=sample_users, before_send=before_send)
        self._way = _http.Way(
            proxy=proxy,
            ca_file=ca_file,
            client_cert=client_cert,
            client_key=client_key,
            client_key_password=client_key_password,
            verify=verify,
        )
        self._validate = validate
        self._gzip = gzip
        self._request_context = request_context
        self._discards = Discards(self._target.label)
        self._client: _http.Client | None = None
        self._taken: OrderedDict[UUID, None] = OrderedDict()  # of batches that were cut off, or are under way

    async def __aenter__(self) -> Self:
        self._client = self._target.open_client(self._way, gzip=self._gzip)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._discards.tell()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @property
    def discards(self) -> tuple[Discard, ...]:
        """The discard report: what was kept back, or refused for good, by reason; of this process, since its start."""
        return self._discards.report()

    async def check(self) -> None:
        """Whether the receiver answers as one of its kind; it creates nothing, so few can tell whether a key is right.

        Raises:
            TransientError, PermanentError: it does not, and why.
        """
        if self._preset.probe is None:
            await _http.reach(self._opened(), self._target.address())
            return
        path, content = self._preset.probe
        if found := self._preset.findings(await self._ask(path, content)):
            msg = f"{self._target.label} refuses a plain event: {found}"
            raise PermanentError(msg)

    async def send_batch(self, events: Sequence[TrackEvent]) -> None:
        """Deliver all, or say which were not.

        What may not be sent at all counts as delivered, and in `discards`. After a transient failure
        the chunks behind it are not tried: they fail with the same error.

        Raises:
            TransientError, PermanentError: all events failed, for this one reason.
            PartialError: these failed; the others have been delivered and need not be sent again.
        """
        failures: dict[UUID, Exception] = {}
        discarded: Counter[str] = Counter()
        fresh = [event for event in events if event.id not in self._taken]
        waiting = deque(self._chunks(self._items(fresh, failures, discarded)))
        if self._preset.parallel == 1 or len(waiting) == 1:
            await self._deliver(waiting, failures, discarded)
        else:
            async with anyio.create_task_group() as group:
                for _ in range(min(self._preset.parallel, len(waiting))):
                    group.start_soon(self._deliver, waiting, failures, discarded)
        ids = {event.id for event in events}
        for event_id in ids:
            self._taken.pop(event_id, None)
        # Only now: a batch that was cancelled comes again as a whole.
        discarded.update(
            getattr(error, "reason", "refused") for error in failures.values() if isinstance(error, PermanentError)
        )
        self._discards.add(discarded)
        if failures:
            raise self._failed(failures, of=len(ids))

    async def _deliver(self, waiting: deque[Chunk], failures: dict[UUID, Exception], discarded: Counter[str]) -> None:
        """Send what waits, until there is no more, or no use."""
        while waiting:
            chunk = waiting.popleft()
            try:
                verdict = await self._post(chunk)
            except _DivisibleError as error:
                if len(chunk.items) > 1:
                    waiting.extendleft(reversed(chunk.halves()))
                else:
                    failures.update((item.id, error) for item in chunk.items)
            except PermanentError as error:
                failures.update((item.id, error) for item in chunk.items)
            except TransientError as error:
                failures.update((item.id, error) for rest in (chunk, *waiting) for item in rest.items)
                waiting.clear()
            else:
                failures.update(verdict.failures)
                self._taken.update((item.id, None) for item in chunk.items if item.id not in verdict.failures)
                while len(self._taken) > _MAX_TAKEN:
                    self._taken.popitem(last=False)
                if verdict.unknown:
                    discarded["refused, and not said which"] += verdict.unknown

    async def _post(self, chunk: Chunk) -> Verdict:
        """What the receiver says of the chunk.

        Raises:
            _DivisibleError: it refuses it as it is; a part of it may be fine.
            TransientError, PermanentError: for all of it.
        """
        shared = from_json(chunk.shared)
        if self._validate and self._preset.validation_path is not None:
            content = body(self._frame(shared | _STRICT), chunk.items)
            if found := self._preset.findings(await self._ask(self._preset.validation_path, content)):
                msg = f"{self._preset.name}'s validation finds {found}; the event is not sent"
                raise _DivisibleError(msg, reason="invalid")
        content = body(self._frame(shared), chunk.items)
        answer = await self._ask(self._preset.path, content, accept={_TOO_LARGE})
        if answer.status == _TOO_LARGE:
            msg = _too_large(chunk.items[0], "the receiver refuses that with 413")
            raise _DivisibleError(msg, reason="too large")
        return self._preset.verdict(answer, [item.id for item in chunk.items])

    async def _ask(self, path: str, content: bytes, accept: set[int] | None = None) -> _http.Answer:
        return await _http.ask(
            self._opened(),
            self._target.address(path),
            content=gzip_format.compress(content, compresslevel=1, mtime=0) if self._gzip else content,
            headers=self._preset.headers(),
            accept=accept or (),
            later=self._preset.later,
            max_bytes=_MAX_ANSWER_BYTES,
        )

    def _items(
        self, events: Sequence[TrackEvent], failures: dict[UUID, Exception], discarded: Counter[str]
    ) -> Mapping[bytes, Mapping[UUID, Item]]:
        """The events in the vendor's form, by what the request is to say once for them; the rest is accounted for."""
        items: dict[bytes, dict[UUID, Item]] = {}
        for original in events:
            try:
                event = self._admission.admit(original)
                if isinstance(event, str):
                    discarded[event] += 1
                    continue
                shared, item = self._item(event)
            except RefusedError as error:
                failures[original.id] = error
            else:
                items.setdefault(shared, {}).setdefault(item.id, item)
        return items

    def _item(self, event: TrackEvent) -> tuple[bytes, Item]:
        visit = Visit.of(event) if self._request_context else Visit()
        try:
            shared = self._preset.shared(event, visit)
            item = Item(event.id, encode(self._preset.item(event, visit)))
            told = encode(shared)
        except ValueError as error:
            msg = "its properties or context hold what JSON has no form for; pass plain values"
            raise RefusedError(msg, reason="no JSON form") from error
        cap = self._preset.max_event_bytes
        if cap is None and self._preset.max_batch_bytes is not None:
            cap = self._preset.max_batch_bytes - self._frame(shared).size
        if cap is not None and len(item.json) > cap:
            raise RefusedError(_too_large(item, f"{self._preset.name} takes at most {cap:,}"), reason="too large")
        return told, item

    def _chunks(self, groups: Mapping[bytes, Mapping[UUID, Item]]) -> Iterator[Chunk]:
        caps = [cap for cap in (self._preset.max_batch_bytes, _MAX_GZIP_BYTES if self._gzip else None) if cap]
        for shared, items in groups.items():
            room = min(caps) - self._frame(from_json(shared)).size if caps else None
            for packed in pack(items.values(), max_bytes=room, max_events=self._preset.max_batch_events):
                yield Chunk(shared, packed)

    def _frame(self, shared: Mapping[str, Any]) -> Frame:
        return self._preset.frame(shared, self._target.key, datetime.now(UTC))

    def _opened(self) -> _http.Client:
        if self._client is None:
            msg = "the analytics sink is not open: enter it with `async with`"
            raise RuntimeError(msg)
        return self._client

    @staticmethod
    def _failed(failures: dict[UUID, Exception], *, of: int) -> Exception:
        reasons = set(failures.values())
        return reasons.pop() if len(failures) == of and len(reasons) == 1 else PartialError(failures)


class _DivisibleError(RefusedError):
    """A refusal of several events together: by halves, those that are fine are found."""


def _too_large(item: Item, limit: str) -> str:
    return f"the event is {len(item.json):,} bytes of JSON; {limit}: send less in its properties"
