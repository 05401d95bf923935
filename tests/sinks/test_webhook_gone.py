"""The sink `webhook`: what it makes of answers that are no delivery, and of 410 above all."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from sidefx import PermanentError, RetryOptions, SideEffects, SinkOptions, TransientError, audit
from sidefx_sinks.webhook import Webhook
from tests.sinks.collector import Answer, Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


def _alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


async def test_after_410_nothing_more_is_sent(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """In a runtime: one request, one loud line with what to do, and every event among the dead letters."""
    collector.answer(410)
    async with SideEffects({"partner": Webhook(url=f"{collector.url}/s3cret")}) as fx:
        for _ in range(3):
            await fx.emit(audit("order.create"))
            await fx.flush(10)
        stats = fx.stats().sinks["partner"]
        letters = [str(letter.error) for letter in fx.dead_letters]
    assert len(collector.received) == 1
    assert (stats.delivered, stats.rejected, stats.retried) == (0, 3, 0)
    assert ["not sent" in letter for letter in letters] == [False, True, True]
    assert all(f"POST {collector.host} answered 410 Gone" in letter for letter in letters)
    [alarm] = _alarms(caplog)
    assert alarm.startswith("webhook disabled")
    assert "remove this sink or change its url, then restart and replay the dead letters" in alarm
    assert "s3cret" not in f"{alarm}{letters}"


async def test_check_says_that_it_is_disabled(collector: Collector) -> None:
    """Also after it was closed and opened again, without asking; a new object, as after a restart, asks anew."""
    sink = Webhook(url=collector.url)
    async with sink:
        await sink.check()
        collector.answer(410)
        with pytest.raises(PermanentError, match="answered 410"):
            await sink.send(audit("a"))
        with pytest.raises(PermanentError, match=f"{collector.host} answered 410 Gone: the receiver is gone for good"):
            await sink.check()
    async with sink:
        with pytest.raises(PermanentError, match=r"not sent: POST .* answered 410"):
            await sink.send(audit("b"))
    assert [request.method for request in collector.received] == ["HEAD", "POST"]
    async with Webhook(url=collector.url) as restarted:
        await restarted.send(audit("c"))
    assert len(collector.received) == 3


async def test_two_that_hear_it_at_once_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """With `concurrency` above 1, several are on their way when the first 410 comes."""
    refused: list[str] = []

    def answer(server: socket.socket) -> None:
        peers = [server.accept()[0] for _ in range(2)]  # both are on their way before either is answered
        for peer in peers:
            with peer:
                peer.sendall(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65_536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        async with (
            Webhook(url=f"http://127.0.0.1:{server.getsockname()[1]}") as sink,
            anyio.create_task_group() as tasks,
        ):

            async def send() -> None:
                with pytest.raises(PermanentError) as error:
                    await sink.send(audit("a"))
                refused.append(str(error.value))

            tasks.start_soon(send)
            tasks.start_soon(send)
            await anyio.to_thread.run_sync(answer, server)
    assert len(refused) == 2
    assert not any("not sent" in error for error in refused)
    assert len(_alarms(caplog)) == 1


async def test_410_of_the_root_is_only_a_sign_of_life(collector: Collector) -> None:
    """It says nothing of the hook, which `check()` does not ask."""
    collector.answer(410)
    async with Webhook(url=f"{collector.url}/hook") as sink:
        await sink.check()
        await sink.send(audit("a"))
    assert [request.method for request in collector.received] == ["HEAD", "POST"]


async def test_a_conflict_is_tried_again(collector: Collector) -> None:
    """The receiver is still at work on an attempt that ran out of time; the next one finds it done."""
    collector.answer(409, {"Retry-After": "0"})
    options = SinkOptions(retry=RetryOptions(attempts=2, initial=0.01))
    async with SideEffects({"partner": Webhook(url=collector.url)}, {"partner": options}) as fx:
        await fx.emit(audit("order.create"))
        await fx.flush(10)
        assert fx.stats().sinks["partner"].delivered == 1
    first, second = collector.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 521])
async def test_later_is_transient_with_the_pause_that_was_asked_for(collector: Collector, status: int) -> None:
    """The lane waits that long."""
    collector.answer(status, {"Retry-After": "7"})
    async with Webhook(url=collector.url) as sink:
        with pytest.raises(TransientError, match=f"{collector.host} answered {status}") as later:
            await sink.send(audit("a"))
    assert later.value.retry_after == 7


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(collector: Collector, status: int) -> None:
    """Neither to another host nor to another path: body, signature and credentials go to `url` alone."""
    with Collector() as elsewhere:
        for target in (f"{elsewhere.url}/s3cret", "/s3cret"):
            collector.answer(status, {"Location": target})
            async with Webhook(url=f"{collector.url}/hook") as sink:
                with pytest.raises(
                    PermanentError, match=f"answered {status}.*redirects are not followed; set url"
                ) as said:
                    await sink.send(audit("a"))
            assert "s3cret" not in str(said.value)
    assert elsewhere.connections == 0
    assert [request.path for request in collector.received] == ["/hook", "/hook"]


@pytest.mark.parametrize("location", ["//[::", "\x7f\x01", "javascript:alert(1)", "http://x:99999/", ""])
async def test_a_redirect_to_nowhere_is_a_redirect(collector: Collector, location: str) -> None:
    """What `Location` says does not matter, also where it is no URL."""
    collector.answer(302, {"Location": location})
    async with Webhook(url=collector.url) as sink:
        with pytest.raises(PermanentError, match="answered 302 Found: redirects are not followed"):
            await sink.send(audit("a"))


@pytest.mark.parametrize("status", [400, 409, 410, 500])
async def test_the_receivers_words_are_in_no_message(
    collector: Collector, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Neither its reason nor its body, which it could fill with lines of a log or with our own secrets."""
    forged = b"forged\r\n" * 10_000
    head = f"HTTP/1.1 {status} forged\r\nContent-Length: {len(forged)}\r\n\r\n"
    collector.answers.append(Answer(raw=head.encode() + forged))
    async with Webhook(url=collector.url) as sink:
        with pytest.raises((PermanentError, TransientError), match=f"answered {status}") as said:
            await sink.send(audit("a"))
    assert "forged" not in f"{said.value!r}{caplog.text}"
