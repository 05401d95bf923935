"""Every built-in sink passes the conformance suite that users have for theirs, against the real receiver."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink as Swallow
from pydantic import SecretStr

from sidefx import AuditEvent, Event, SideEffects, audit, email, invalidate, track
from sidefx.testing import check_sink
from sidefx_sinks.analytics import Analytics
from sidefx_sinks.audit_log import AuditLog
from sidefx_sinks.cache import Cache
from sidefx_sinks.email import Email
from sidefx_sinks.log import Log
from sidefx_sinks.webhook import Webhook
from tests.sinks.collector import Collector

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + "c2VjcmV0" * 5


@pytest.fixture
def collector() -> Iterator[Collector]:
    """An HTTP receiver."""
    with Collector() as running:
        yield running


@pytest.fixture
def smtp_port() -> Iterator[int]:
    """A mail server in a thread, so that it serves trio as well."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # aiosmtpd's controller connects to the port it is given, which 0 is not
    controller = Controller(Swallow(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


async def test_audit_log(tmp_path: Path) -> None:
    """On SQLite; PostgreSQL and MariaDB have the sink's own tests."""
    url = SecretStr(f"sqlite:///{tmp_path / 'audit.db'}")
    await check_sink(lambda: AuditLog(url=url), [audit("a", actor=1), audit("b", metadata={"k": "v"})])


async def test_log(tmp_path: Path) -> None:
    """Into a file; it takes every kind."""
    await check_sink(
        lambda: Log(path=tmp_path / "events.jsonl"), [audit("a"), track("b", user_id=1), invalidate(keys="k")]
    )


@pytest.mark.parametrize("preset", ["segment", "posthog", "json"])
async def test_analytics(collector: Collector, preset: Any) -> None:
    """Each preset, at a real receiver."""
    key = None if preset == "json" else SecretStr(SECRET)
    await check_sink(
        lambda: Analytics(preset=preset, url=collector.url, write_key=key),
        [track("a", user_id=1), track("b", anonymous_id="x")],
        secrets=[SECRET],
    )


async def test_webhook(collector: Collector) -> None:
    """Signed, at a real receiver."""
    await check_sink(
        lambda: Webhook(url=collector.url, secret=SecretStr(SECRET)),
        [audit("a"), track("b", user_id=1)],
        secrets=[SECRET],
    )


async def test_email(smtp_port: int) -> None:
    """At a real mail server; hosted on an asyncio loop under trio."""
    events = [email(to="a@example.org", subject=subject, text="x") for subject in "ab"]
    await check_sink(lambda: Email(sender="shop@example.org", host="127.0.0.1", port=smtp_port, tls="none"), events)


async def test_cache_in_memory() -> None:
    """The in-process cache."""
    await check_sink(lambda: Cache(store="memory"), [invalidate(keys="a"), invalidate(tags=["t"], prefixes="p")])


async def test_cache_in_redis(redis_url: str) -> None:
    """A real Redis; hosted on an asyncio loop under trio."""
    namespace = f"sidefx-test-{uuid.uuid4().hex}:"
    await check_sink(
        lambda: Cache(store="redis", url=SecretStr(redis_url), namespace=namespace),
        [invalidate(keys="a"), invalidate(tags=["t"], prefixes="p")],
    )


async def test_cache_over_http(collector: Collector) -> None:
    """Purges at a real receiver."""
    await check_sink(lambda: Cache(store="http", nodes=[collector.url]), [invalidate(tags="a"), invalidate(tags="b")])


def test_in_code_a_plain_string_is_a_secret_too(tmp_path: Path) -> None:
    """What a file says, code can say; no sink shows it, and none holds it in the open."""
    url = f"postgresql://bob:{SECRET}@127.0.0.1/x"
    sinks = [
        AuditLog(url=url),
        Analytics(preset="segment", write_key=SECRET),
        Analytics(url="http://127.0.0.1", headers={"Authorization": SECRET}),
        Webhook(url="http://127.0.0.1", secret=SECRET, headers={"Authorization": SECRET}),
        Email(sender="a@example.org", username="bob", password=SECRET),
        Cache(store="redis", url=f"redis://bob:{SECRET}@127.0.0.1"),
        Cache(store="http", nodes=["http://127.0.0.1"], headers={"Authorization": SECRET}),
    ]
    for sink in sinks:
        assert SECRET not in repr(sink) + str(vars(sink))


class Forgetful:
    """Works once."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()

    async def send(self, event: AuditEvent) -> None:
        if event.id in self.seen:
            raise RuntimeError
        self.seen.add(event.id)


class Talkative:
    """Shows its secret."""

    def __init__(self) -> None:
        self.token = "hunter2"

    async def send(self, event: AuditEvent) -> None: ...


class Unwell(Talkative):
    """Says False instead of raising."""

    async def check(self) -> bool:
        return False


class Swallower:
    """Goes on when it is cancelled, and is then unusable."""

    closed = False

    async def send(self, event: AuditEvent) -> None:
        if self.closed:
            raise RuntimeError
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            self.closed = True
            raise


@pytest.mark.parametrize(
    ("make", "secrets", "said"),
    [
        (Forgetful, [], "not a second time"),
        (Talkative, ["hunter2"], "plain string"),
        (Unwell, [], "is to return None, or raise"),
    ],
)
async def test_the_suite_finds_what_is_wrong(make: Any, secrets: list[str], said: str) -> None:
    """A sink that breaks a promise is told which."""
    with pytest.raises(AssertionError, match=said):
        await check_sink(make, [audit("a"), audit("b")], secrets=secrets)


async def test_the_suite_finds_a_sink_that_a_cancellation_breaks() -> None:
    """Lanes cancel; what is cancelled once must work the next time."""
    with pytest.raises(RuntimeError):
        await check_sink(Swallower, [audit("a"), audit("b")])


async def test_a_sink_of_another_kind_of_event_is_told() -> None:
    """The events given must be ones that it takes."""
    with pytest.raises(AssertionError, match="does not take track"):
        await check_sink(Talkative, [audit("a"), track("b", user_id=1)])


async def test_events_reach_the_sinks_that_take_them_and_no_others(tmp_path: Path, collector: Collector) -> None:
    """One runtime, several real sinks: each event kind finds its own."""
    kinds: list[str] = []

    async def everything(event: Event) -> None:
        kinds.append(event.kind)

    sinks = {
        "audit": AuditLog(url=SecretStr(f"sqlite:///{tmp_path / 'audit.db'}")),
        "analytics": Analytics(url=collector.url),
        "all": everything,
    }
    async with SideEffects(sinks) as fx:
        for event in (audit("a"), track("t", user_id=1), invalidate(keys="k")):
            await fx.emit(event)
        await fx.flush(10)
        delivered = {name: sink.delivered for name, sink in fx.stats().sinks.items()}
    assert delivered == {"audit": 1, "analytics": 1, "all": 3}
    assert sorted(kinds) == ["audit", "invalidate", "track"]
