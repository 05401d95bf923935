"""What the HTTP sinks share: bounds, and errors that the lane understands."""

from __future__ import annotations

import gc
import logging
import socket
import struct
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import httpx
import pytest
from pydantic import SecretStr

from sidefx import PermanentError, TransientError
from sidefx_sinks import _http
from tests.sinks.collector import SILENCE, Answer, Collector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200 until told otherwise."""
    with Collector() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[_http.Client]:
    """A client as the sinks open it."""
    opened = _http.open_client()
    yield opened
    await opened.aclose()


def _answer(**headers: str) -> _http.Response:
    return httpx.Response(503, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("99999999999999999999", _http.MAX_RETRY_AFTER),
        ("9" * 5000, _http.MAX_RETRY_AFTER),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 30.0),
        ("Friday, 31-Dec-99 23:59:59 GMT", 30.0),
        ("Fri Dec 31 23:59:59 1999", 30.0),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        ("Sat, 31 Dec 2099 23:59:59 GMT", _http.MAX_RETRY_AFTER),
    ],
)
def test_retry_after_is_understood_in_every_form_of_the_rfc_and_bounded(value: str, seconds: float) -> None:
    """Seconds and the three forms of a date, measured against the answer's own clock."""
    assert _http.retry_after(_answer(date="Fri, 31 Dec 1999 23:59:29 GMT", retry_after=value)) == seconds


@pytest.mark.parametrize("value", ["", "-5", "1.5", "soon", "٣", "Fri, 99 Dec 1999 23:59:59 GMT"])
def test_retry_after_of_no_known_form_is_ignored(value: str) -> None:
    """What is not understood counts as absent, and never as an error of its own."""
    headers = httpx.Headers([(b"retry-after", value.encode())])
    assert _http.retry_after(httpx.Response(503, headers=headers)) is None


def test_retry_after_as_a_date_works_without_the_receivers_clock() -> None:
    """Where the answer has no `Date`, this machine's clock is the measure."""
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert _http.retry_after(_answer(retry_after=format_datetime(soon, usegmt=True))) == pytest.approx(60, abs=5)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_is_a_success(collector: Collector, client: _http.Client, status: int) -> None:
    """The answer comes back to be looked at."""
    collector.answer(status)
    assert (await _http.request(client, "POST", collector.url, content=b"x")).status_code == status
    assert collector.received[0].body == b"x"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
async def test_later_is_transient_with_the_wait_that_was_asked_for(
    collector: Collector, client: _http.Client, status: int
) -> None:
    """A status that means "later" carries its `Retry-After` to the lane."""
    collector.answer(status, {"Retry-After": "7"})
    with pytest.raises(TransientError, match=rf"POST {collector.host} answered {status}") as caught:
        await _http.request(client, "POST", collector.url)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 415, 418, 422, 451, 499, 501, 505])
async def test_a_refusal_is_permanent_and_says_what_to_check(
    collector: Collector, client: _http.Client, status: int
) -> None:
    """Status, host and remedy stand in one line."""
    collector.answer(status, {"Retry-After": "7"})
    with pytest.raises(PermanentError, match=rf"^POST {collector.host} answered {status}[^:]*: \w+") as caught:
        await _http.request(client, "POST", collector.url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_refused_and_not_followed(collector: Collector, client: _http.Client, status: int) -> None:
    """A body and its credentials go to the configured address alone."""
    collector.answer(status, {"Location": "/elsewhere"})
    with pytest.raises(PermanentError, match="redirects are not followed"):
        await _http.request(client, "POST", f"{collector.url}/here")
    assert [request.path for request in collector.received] == ["/here"]


async def test_a_status_that_the_sink_accepts_is_returned(collector: Collector, client: _http.Client) -> None:
    """`accept` is how a sink takes a 404 for "was not there anyway"."""
    collector.answer(404)
    assert (await _http.request(client, "PURGE", collector.url, accept={404})).status_code == 404


async def test_a_refused_connection_is_transient_and_names_the_host(client: _http.Client) -> None:
    """What failed and where, and nothing of the rest of the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError) as caught:
        await _http.request(client, "POST", f"http://user:s3cret@127.0.0.1:{port}/s3cret?k=s3cret")
    assert str(caught.value) == f"POST 127.0.0.1:{port} failed: Connection refused"


@pytest.mark.parametrize(
    "answer",
    [
        SILENCE,
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        Answer(raw=b"220 mail.example ESMTP\r\n"),
    ],
)
async def test_a_broken_answer_is_transient(collector: Collector, client: _http.Client, answer: Answer) -> None:
    """No answer, half of one, or one of another protocol: the delivery is not known to have happened."""
    collector.answers.append(answer)
    with pytest.raises(TransientError, match=rf"POST {collector.host} failed: the connection was closed"):
        await _http.request(client, "POST", collector.url)


async def test_an_unknown_host_is_transient(client: _http.Client) -> None:
    """A name can fail to resolve for a while."""
    with pytest.raises(TransientError, match=r"POST nowhere\.invalid failed: \w+"):
        await _http.request(client, "POST", "http://nowhere.invalid/")


@pytest.mark.parametrize("url", ["ftp://host/s3cret", "http://h:s3cret/", "s3cret", "http:///s3cret"])
async def test_what_is_no_url_is_permanent(client: _http.Client, url: str) -> None:
    """Trying again would not mend it, and the message does not repeat it."""
    with pytest.raises(PermanentError) as caught:
        await _http.request(client, "POST", url)
    assert "s3cret" not in str(caught.value)


async def test_a_connection_is_used_again(collector: Collector, client: _http.Client) -> None:
    """A short answer is read to its end, so that the next request saves the handshake."""
    for _ in range(3):
        await _http.request(client, "POST", collector.url)
    assert collector.connections == 1


@pytest.mark.contract("L02")
async def test_a_cancelled_request_leaves_nothing_behind(collector: Collector, client: _http.Client) -> None:
    """The lane's timeout ends a call that is not answered; its connection is closed, the client serves on."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await _http.request(client, "POST", f"http://127.0.0.1:{mute.getsockname()[1]}")
        peer, _ = mute.accept()
        with peer:
            while peer.recv(65_536):  # ends where the client has closed
                pass
    assert (await _http.request(client, "POST", collector.url)).status_code == 200


async def test_a_connection_that_breaks_in_mid_request_leaves_nothing_behind(client: _http.Client) -> None:
    """Nor a warning: trio's of a generator that nobody ended, which the body must not be."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            peer, _ = server.accept()
            peer.recv(1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, reset)
            with pytest.raises(TransientError, match=r"POST 127\.0\.0\.1:\d+ failed: "):
                await _http.request(client, "POST", url, content=b"x" * 20_000_000)
    gc.collect()


@pytest.mark.parametrize("framing", ["Content-Length: 10000000", "Connection: close"])
async def test_an_answer_without_end_is_cut_off(collector: Collector, client: _http.Client, framing: str) -> None:
    """The status counts; the memory that a receiver can take is bounded."""
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"
    collector.answers.append(Answer(raw=head.encode() + b"x" * 10_000_000))
    response = await _http.request(client, "POST", collector.url)
    assert response.status_code == 200
    assert response.num_bytes_downloaded < 1_000_000  # a chunk may be larger than the cap, all of it never is


@pytest.mark.parametrize(("size", "kept"), [(0, True), (1_000, True), (1_001, False), (100_000, False)])
async def test_an_answer_is_read_as_far_as_it_may_be(
    collector: Collector, client: _http.Client, size: int, kept: bool
) -> None:
    """The whole of it, or nothing: half an answer says nothing. The connection is used again where it was short."""
    for _ in range(2):
        collector.answer(200, {"Retry-After": "7"}, b"x" * size)
        answer = await _http.ask(client, collector.url, content=b"question", max_bytes=1_000)
        assert answer[:3] == (200, 7.0, b"x" * size if kept else None)
        assert answer.headers["retry-after"] == answer.headers["Retry-After"] == "7"
    assert collector.received[0].body == b"question"
    assert collector.connections == (1 if size < _http.MAX_ANSWER_BYTES else 2)


async def test_a_protocol_can_have_a_list_of_its_own_of_what_is_later(
    collector: Collector, client: _http.Client
) -> None:
    """Then the usual one does not hold; what the sink accepts is returned."""
    for status in (429, 500, 413):
        collector.answer(status, {"Retry-After": "7"}, b"said")
    with pytest.raises(TransientError, match="answered 429") as caught:
        await _http.ask(client, collector.url, content=b"", later={429})
    assert caught.value.retry_after == 7
    with pytest.raises(PermanentError, match="answered 500"):
        await _http.ask(client, collector.url, content=b"", later={429})
    answer = await _http.ask(client, collector.url, content=b"", accept={413})
    assert answer[:3] == (413, 7.0, b"said")


async def test_compressed_answers_are_not_unpacked(collector: Collector, client: _http.Client) -> None:
    """They are not asked for, and one that comes all the same is thrown away as it is."""
    collector.answer(200, {"Content-Encoding": "gzip"}, b"no gzip at all")
    await _http.request(client, "POST", collector.url)
    assert collector.received[0].headers["accept-encoding"] == "identity"


async def test_cookies_are_not_kept(collector: Collector, client: _http.Client) -> None:
    """A receiver cannot make a sink carry anything."""
    collector.answer(200, {"Set-Cookie": "a=b; Path=/"})
    await _http.request(client, "POST", collector.url)
    await _http.request(client, "POST", collector.url)
    assert "cookie" not in collector.received[1].headers


async def test_the_receivers_words_stay_out_of_the_message(collector: Collector, client: _http.Client) -> None:
    """Neither its reason phrase nor its body reaches a log."""
    collector.answers.append(Answer(raw=b"HTTP/1.1 400 forged\r\nContent-Length: 6\r\n\r\nforged"))
    with pytest.raises(PermanentError) as caught:
        await _http.request(client, "POST", collector.url)
    assert "forged" not in str(caught.value)


@pytest.mark.contract("F03")
async def test_the_url_is_logged_by_nobody(
    collector: Collector, client: _http.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Httpx logs each URL at INFO; for our requests it does not, for the application's own it still does."""
    caplog.set_level(logging.INFO)
    await _http.request(client, "POST", f"{collector.url}/s3cret")
    assert "s3cret" not in caplog.text
    async with httpx.AsyncClient() as theirs:
        await theirs.get(f"{collector.url}/of-the-app")
    assert "of-the-app" in caplog.text


@pytest.mark.contract("F03")
async def test_a_header_that_the_library_refuses_is_not_repeated(collector: Collector, client: _http.Client) -> None:
    """The protocol library quotes a bad value; the error of the sink has neither it nor its traceback."""
    with pytest.raises(TransientError) as caught:
        await _http.request(client, "POST", collector.url, headers={"x": "s3cret\nx"})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_configured_headers_stand_in_for_the_clients_own() -> None:
    """Names are compared without regard to case, so that none goes out twice."""
    async with _http.open_client(headers={"user-agent": "shop/1"}) as client:
        assert client.headers.get_list("User-Agent") == ["shop/1"]


@pytest.mark.parametrize("status", [200, 301, 404, 401, 500, 999])
async def test_reach_takes_any_answer_for_a_sign_of_life(
    collector: Collector, client: _http.Client, status: int
) -> None:
    """It asks for the head of the root, which creates nothing."""
    collector.answer(status)
    await _http.reach(client, f"{collector.url}/hook/s3cret?k=s3cret")
    assert [(request.method, request.path) for request in collector.received] == [("HEAD", "/")]


async def test_reach_says_what_failed(client: _http.Client) -> None:
    """One line with the host."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=rf"^HEAD 127\.0\.0\.1:{port} failed: Connection refused$"):
        await _http.reach(client, f"http://127.0.0.1:{port}/hook")


@pytest.mark.parametrize("url", ["", "example.com", "//example.com", "ftp://s3cret", "https://", "http://h:s3cret/"])
def test_a_relative_or_foreign_url_is_refused(url: str) -> None:
    """At construction, without repeating it."""
    with pytest.raises(ValueError, match="https://host/path") as caught:
        _http.checked_url(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.contract("F03")
@pytest.mark.parametrize("value", ["s3cret\r\nX: y", "s3cret\n", "s3cret\x00", "s3crét", " s3cret", ""])
def test_a_header_value_cannot_leave_its_header(value: str) -> None:
    """Line breaks, control characters and other alphabets are refused, by the header's name alone."""
    with pytest.raises(ValueError, match="the value of X-Token") as caught:
        _http.checked_headers({"X-Token": SecretStr(value)})
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/", True),
        ("/a%20b/c..d?e=%2F&f", True),
        ("/a?", True),
        ("/a?b=/../c", True),
        ("/a/../b", False),
        ("/a/.", False),
        ("/a b", False),
        ("/ö", False),
        ("/" + "a" * 70_000, False),
    ],
)
def test_what_a_request_would_change_is_told(path: str, same: bool) -> None:
    """Dot segments go, and what no URL may hold is encoded; one too long is none."""
    assert _http.goes_as_it_is(path) is same


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "Content-Length", "Host", "X-Own"])
def test_a_header_name_is_a_token_and_not_the_sinks_own(name: str) -> None:
    """What frames the request, and what the sink sets, is not the user's to set."""
    with pytest.raises(ValueError, match="headers: "):
        _http.checked_headers({name: SecretStr("x")}, reserved=("x-own",))


def test_good_headers_are_laid_open() -> None:
    """What passes the check is sent as it was written."""
    headers = {"Authorization": SecretStr("Bearer a b\tc")}
    assert _http.checked_headers(headers) == headers
    assert _http.checked_headers(None) == {}
