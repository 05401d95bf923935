"""What may be sent at all: consent, the sample of users, `before_send`; and the report of what was not."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from pydantic import ValidationError

from sidefx import PartialError, PermanentError, SideEffects, TrackEvent, TransientError, event_from_json, track
from sidefx_sinks.analytics import Analytics, Discard
from sidefx_sinks.analytics.discards import Discards
from tests.sinks.collector import Collector
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _events(count: int, **fields: Any) -> list[TrackEvent]:
    event = track("Seen", user_id=1, **fields)
    return [event.model_copy(update={"id": UUID(int=number)}) for number in range(1, count + 1)]


def _sent(collector: Collector) -> list[dict[str, Any]]:
    return [item for request in collector.received for item in request.json()["batch"]]


def _counts(sink: Analytics) -> dict[str, int]:
    return {line.reason: line.count for line in sink.discards}


@pytest.mark.parametrize(
    ("consent", "sent"),
    [
        ({"analytics": True, "ads": True}, True),
        ({"analytics": True, "ads": True, "other": False}, True),
        ({"analytics": True, "ads": False}, False),
        ({"analytics": True}, False),
        ({}, False),
        (None, False),
    ],
)
async def test_without_consent_nothing_is_sent(
    collector: Collector, consent: dict[str, bool] | None, sent: bool
) -> None:
    """Every category that the sink requires has to be granted; not to know is no consent."""
    async with Analytics(url=collector.url, require_consent=("analytics", "ads")) as sink:
        await sink.send_batch(_events(1, consent=consent))
        assert bool(collector.received) == sent
        reason = "consent not known" if consent is None else "no consent"
        assert _counts(sink) == ({} if sent else {reason: 1})


async def test_without_requirements_everything_is_sent(collector: Collector) -> None:
    """The default: who asks for no consent, has their own."""
    async with Analytics(url=collector.url) as sink:
        await sink.send_batch(_events(1, consent={"analytics": False}))
    assert [item["consent"] for item in _sent(collector)] == [{"analytics": False}]


async def test_segment_is_told_of_the_consent(collector: Collector) -> None:
    """In the form that its own consent management has."""
    async with Analytics(preset="segment", url=collector.url, write_key="k") as sink:
        await sink.send_batch(_events(1, consent={"ads": False, "analytics": True}))
    [item] = _sent(collector)
    assert item["context"]["consent"] == {"categoryPreferences": {"ads": False, "analytics": True}}


def test_consent_is_part_of_the_event() -> None:
    """It goes through a journal with it, and a row that was written before there was consent is still read."""
    event = track("Seen", user_id=1, consent={"analytics": True})
    assert event_from_json("track", event.model_dump_json()) == event
    old = track("Seen", user_id=1)
    assert event_from_json("track", old.model_dump_json(exclude={"consent"})) == old


def test_consent_is_yes_or_no() -> None:
    """Anything else is a mistake at the call."""
    unclear: Any = {"analytics": "perhaps"}
    with pytest.raises(ValidationError, match="consent"):
        track("Seen", user_id=1, consent=unclear)


async def test_a_user_is_sampled_as_a_whole(collector: Collector) -> None:
    """A quarter of the users, with all of their events, and the same ones in another sink and process."""
    users = [f"user-{number}" for number in range(400)]
    events = [track(step, user_id=user) for user in users for step in ("seen", "put", "paid")]
    kept = []
    for _ in range(2):
        async with Analytics(url=collector.url, sample_users=0.25) as sink:
            await sink.send_batch(events)
            assert _counts(sink)["sampled"] + len(_sent(collector)) == len(events)
        kept.append(Counter(item["user_id"] for item in _sent(collector)))
        collector.received.clear()
    assert kept[0] == kept[1]
    assert set(kept[0].values()) == {3}
    assert 60 < len(kept[0]) < 140  # 100 expected, with a standard deviation of 9
    assert "user-6" in kept[0]  # by its hash, whatever the process


async def test_a_larger_sample_holds_the_smaller_one(collector: Collector) -> None:
    """All or none at its ends."""
    events = [track("seen", anonymous_id=f"visitor-{number}") for number in range(100)]
    kept = []
    for share in (0.0, 0.2, 0.6, 1.0):
        async with Analytics(url=collector.url, sample_users=share) as sink:
            await sink.send_batch(events)
        kept.append({item["anonymous_id"] for item in _sent(collector)})
        collector.received.clear()
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert (len(kept[0]), len(kept[3])) == (0, 100)


async def test_before_send_changes_and_drops(collector: Collector) -> None:
    """What it returns is sent, under the id that the event had; None keeps it back."""

    def scrub(event: TrackEvent) -> TrackEvent | None:
        if event.properties["n"] == 2:
            return None
        return track(event.event, user_id="hidden", properties={"n": event.properties["n"] * 10})

    events = [event.model_copy(update={"properties": {"n": event.id.int}}) for event in _events(3)]
    async with Analytics(url=collector.url, before_send=scrub) as sink:
        await sink.send_batch(events)
        assert _counts(sink) == {"before_send": 1}
    sent = [(UUID(item["id"]).int, item["user_id"], item["properties"]["n"]) for item in _sent(collector)]
    assert sent == [(1, "hidden", 10), (3, "hidden", 30)]


@pytest.mark.parametrize("broken", [lambda _: 1 / 0, lambda _: {"event": "x"}])
async def test_a_before_send_that_fails_sends_nothing(collector: Collector, broken: Any) -> None:
    """Nobody knows what it would have kept back; the event is rejected, and with it nothing of another."""

    def sometimes(event: TrackEvent) -> Any:
        return broken(event) if event.id.int == 1 else event

    async with Analytics(url=collector.url, before_send=sometimes) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(_events(2))
        assert _counts(sink) == {"before_send failed": 1}
    assert "before_send" in str(caught.value.failures[UUID(int=1)])
    assert isinstance(caught.value.failures[UUID(int=1)], PermanentError)
    assert [UUID(item["id"]).int for item in _sent(collector)] == [2]


async def test_consent_comes_first_and_before_send_last(collector: Collector) -> None:
    """What is not to be sent is shown to nobody, and counted once."""
    seen = []
    settings: dict[str, Any] = {"require_consent": ["a"], "sample_users": 0.0, "before_send": seen.append}
    async with Analytics(url=collector.url, **settings) as sink:
        await sink.send_batch([*_events(2, consent={}), *_events(1, consent={"a": True})])
        assert _counts(sink) == {"no consent": 2, "sampled": 1}
    assert seen == []


def test_settings_that_cannot_be_are_refused() -> None:
    """An async function is no `before_send`, and a share is one."""

    async def slow(event: TrackEvent) -> TrackEvent:
        return event

    class Slow:
        async def __call__(self, event: TrackEvent) -> TrackEvent:
            return event

    mistakes: list[Any] = [slow, Slow(), "myapp:scrub"]
    for mistake in mistakes:
        with pytest.raises(ValueError, match="before_send: must be a plain function"):
            Analytics(url="http://127.0.0.1", before_send=mistake)
    with pytest.raises(ValueError, match="require_consent: must be a list"):
        Analytics(url="http://127.0.0.1", require_consent="analytics")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match="sample_users: must be a share"):
        Analytics(url="http://127.0.0.1", sample_users=1.5)


def _scrub(event: TrackEvent) -> TrackEvent:
    del event.properties["email"]
    return event


async def test_what_before_send_changes_in_place_is_its_own(collector: Collector) -> None:
    """The event is other sinks' as well, and comes again at a retry."""
    [event] = _events(1, properties={"email": "a@b.example", "n": 1})
    async with Analytics(url=collector.url, before_send=_scrub) as sink:
        await sink.send_batch([event])
        await sink.send_batch([event])
    assert [item["properties"] for item in _sent(collector)] == [{"n": 1}, {"n": 1}]
    assert event.properties == {"email": "a@b.example", "n": 1}


@pytest.mark.parametrize("change", [{"user_id": None}, {"event": ""}])
async def test_before_send_leaves_somebody_and_something_to_count(collector: Collector, change: dict[str, Any]) -> None:
    """Nobody's event would be everybody's: it is refused."""
    sink = Analytics(url=collector.url, before_send=lambda event: event.model_copy(update=change))
    async with sink:
        with pytest.raises(PermanentError, match="before_send took away"):
            await sink.send_batch(_events(1))
    assert collector.received == []
    assert _counts(sink) == {"before_send failed": 1}


def keep_all(event: TrackEvent) -> TrackEvent:
    """For the file below."""
    return event.model_copy(update={"properties": {"kept": True}})


async def test_a_file_says_all_of_it(collector: Collector, tmp_path: Path) -> None:
    """And the lane counts as delivered what was kept back: `discards` says how much of it that is."""
    path = tmp_path / "sidefx.toml"
    path.write_text(
        f"""
        [sinks.clicks]
        type = "analytics"
        url = "{collector.url}"
        require_consent = ["analytics"]
        sample_users = 1.0
        before_send = "{__name__}:keep_all"
        """
    )
    async with SideEffects.from_toml(path) as fx:
        await fx.emit(track("Seen", user_id=1, consent={"analytics": True}))
        await fx.emit(track("Seen", user_id=2))
        await fx.flush(10)
        assert fx.stats().sinks["clicks"].delivered == 2
    [item] = _sent(collector)
    assert (item["user_id"], item["properties"]) == ("1", {"kept": True})


async def test_what_is_kept_back_is_settled_although_the_rest_failed(collector: Collector) -> None:
    """It is not tried again, nor counted again."""
    collector.answer(503)
    events = [*_events(1), *[event.model_copy(update={"id": UUID(int=9)}) for event in _events(1, consent={"a": True})]]
    async with Analytics(url=collector.url, require_consent=["a"]) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
        assert list(caught.value.failures) == [UUID(int=9)]
        assert isinstance(caught.value.failures[UUID(int=9)], TransientError)
        await sink.send_batch(events[1:])
        assert _counts(sink) == {"consent not known": 1}


async def test_a_cancelled_batch_is_not_counted(collector: Collector) -> None:
    """It comes again as a whole, and is counted then."""
    events = [*_events(1), *_events(1, consent={"a": True})]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with Analytics(url=f"http://127.0.0.1:{mute.getsockname()[1]}", require_consent=["a"]) as sink:
            accepted: list[socket.socket] = []
            mute.setblocking(False)
            async with anyio.create_task_group() as group:
                group.start_soon(sink.send_batch, events)
                await until(lambda: _accept(mute, accepted))
                group.cancel_scope.cancel()
            accepted[0].close()
            assert sink.discards == ()


def _accept(mute: socket.socket, accepted: list[socket.socket]) -> bool:
    try:
        accepted.append(mute.accept()[0])
    except BlockingIOError:
        return False
    return True


async def test_everything_refused_for_good_is_in_the_report(collector: Collector) -> None:
    """By reason, beside the lane's own count of it; what is tried again is not."""
    collector.answer(401)
    collector.answer(503)
    async with Analytics(preset="segment", url=collector.url, write_key="k") as sink:
        with pytest.raises(PermanentError):
            await sink.send_batch(_events(3))
        with pytest.raises(TransientError):
            await sink.send_batch(_events(3))
        with pytest.raises(PartialError):
            await sink.send_batch(
                [*_events(2, properties={"x": object()}), *_events(3, properties={"x": "x" * 40_000})[2:]]
            )
        name = f"segment {collector.host}"
        assert sink.discards == (
            Discard(name, "no JSON form", 2),
            Discard(name, "refused", 3),
            Discard(name, "too large", 1),
        )


def test_the_log_has_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first at once, then what a minute has gathered, then what is left at the end; no count twice."""
    caplog.set_level(logging.INFO, "sidefx")
    clock = [0.0]
    discards = Discards("json c.example", now=lambda: clock[0])
    for moment in (0.0, 1.0, 59.9, 60.0, 61.0):
        clock[0] = moment
        discards.add({"sampled": 1})
    discards.add({})
    discards.tell()
    discards.tell()
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["1 sampled", "3 sampled", "1 sampled"]
    assert discards.report() == (Discard("json c.example", "sampled", 5),)


def test_only_what_nobody_asked_for_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The user's own rules are no fault; an event whose consent the app forgot to give may well be one."""
    caplog.set_level(logging.INFO, "sidefx")
    for reasons in (["sampled", "no consent", "before_send"], ["sampled", "consent not known"], ["too large"]):
        Discards("json c.example").add(dict.fromkeys(reasons, 1))
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING, logging.WARNING]


async def test_the_end_tells_what_was_not_told(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """Closing the sink is the last chance."""
    caplog.set_level(logging.INFO, "sidefx")
    async with Analytics(url=collector.url, require_consent=["a"]) as sink:
        await sink.send_batch(_events(1, consent={}))
        await sink.send_batch(_events(2, consent={}))
    told = [record.message for record in caplog.records if record.name == "sidefx.sinks.analytics"]
    assert told == [f"analytics (json {collector.host}) has not delivered: {count} no consent" for count in (1, 2)]
