"""The fastly and cloudflare stores of the sink `cache`, against a server that records what it gets."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from sidefx import PartialError, PermanentError, TransientError, invalidate
from sidefx.testing import check_sink
from sidefx_sinks.cache import Cache
from sidefx_sinks.cache.fastly import FastlyStore
from sidefx_sinks.cache.store import Target
from tests.sinks.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

TOKEN = "hunter2-token"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """The vendor's API."""
    with Collector() as running:
        yield running


def fastly(collector: Collector, **settings: Any) -> Cache:
    """A sink for a Fastly service."""
    return Cache(store="fastly", service="SU1Z0isxPaozGVKXdv0eY", token=TOKEN, api=collector.url, **settings)


def cloudflare(collector: Collector, **settings: Any) -> Cache:
    """A sink for a Cloudflare zone."""
    return Cache(store="cloudflare", zone="023e105f4ecef8ad", token=TOKEN, api=f"{collector.url}/v4/", **settings)


SINKS = pytest.mark.parametrize("make", [fastly, cloudflare])


@SINKS
async def test_it_keeps_the_contract(collector: Collector, make: Any) -> None:
    """The suite of every sink."""
    await check_sink(lambda: make(collector), [invalidate(tags="a"), invalidate(tags="b")], secrets=[TOKEN])


# ---- Fastly


async def test_fastly_purges_256_keys_in_a_request(collector: Collector) -> None:
    """Surrogate keys in as few requests as the cap allows, each once, with the token in its header."""
    tags = [f"user:{number}" for number in range(600)]
    async with fastly(collector) as sink:
        await sink.send_batch([invalidate(tags=tags), invalidate(tags=tags[:10])])
    assert [(request.method, request.path) for request in collector.received] == [
        ("POST", "/service/SU1Z0isxPaozGVKXdv0eY/purge")
    ] * 3
    assert [len(request.json()["surrogate_keys"]) for request in collector.received] == [256, 256, 88]
    assert [key for request in collector.received for key in request.json()["surrogate_keys"]] == tags
    assert {request.headers["fastly-key"] for request in collector.received} == {TOKEN}
    assert all("fastly-soft-purge" not in request.headers for request in collector.received)


async def test_fastly_purges_urls_and_softly_where_told(collector: Collector) -> None:
    """A URL is named by host and path; the header asks for a soft purge of it and of keys."""
    async with fastly(collector, soft=True) as sink:
        await sink.send_batch([invalidate(tags="t", urls=["https://shop.example/a?b=%20c#top", "http://Shop.example"])])
    assert [request.path for request in collector.received] == [
        "/service/SU1Z0isxPaozGVKXdv0eY/purge",
        "/purge/shop.example/a?b=%20c",
        "/purge/shop.example/",
    ]
    assert {request.headers["fastly-soft-purge"] for request in collector.received} == {"1"}


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/../../service/x/purge_all",
        "https://shop.example/%2e%2e/%2e%2e/token",
        "https://shop.example/..%2f..%2ftoken",
        "https://../service/x/purge_all",
    ],
)
async def test_no_url_reaches_another_path_of_fastlys_api(collector: Collector, url: str) -> None:
    """The token is good for more than purges, perhaps."""
    async with fastly(collector) as sink:
        with pytest.raises(PermanentError, match="one of the event's urls cannot be purged"):
            await sink.send_batch([invalidate(urls=url)])
    assert collector.received == []


async def test_fastly_purges_everything_only_where_it_is_allowed(collector: Collector) -> None:
    """One request for all of the batch, never softly; without the setting none at all."""
    everything = invalidate(everything=True)
    async with fastly(collector) as sink:
        with pytest.raises(PermanentError, match="allow_everything = true"):
            await sink.send_batch([everything])
    assert collector.received == []
    async with fastly(collector, soft=True, allow_everything=True) as sink:
        await sink.send_batch([everything, invalidate(tags="t")])
    assert [request.path for request in collector.received] == ["/service/SU1Z0isxPaozGVKXdv0eY/purge_all"]
    assert "fastly-soft-purge" not in collector.received[0].headers


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Fastly-RateLimit-Remaining": "0", "Fastly-RateLimit-Reset": "1452032384"}, 84.0),
        ({"Fastly-RateLimit-Reset": "1452032000"}, 0.0),
        ({"Fastly-RateLimit-Reset": "99999999999"}, 3600.0),
        ({"Fastly-RateLimit-Reset": "1452032384", "Retry-After": "5"}, 5.0),
        ({"Fastly-RateLimit-Reset": "soon"}, None),
        ({}, None),
    ],
)
async def test_fastlys_limit_is_waited_for(collector: Collector, headers: dict[str, str], pause: float | None) -> None:
    """Its header says when the window ends; that, bounded, is the pause, and what was left is for later."""
    store = FastlyStore("s", SecretStr(TOKEN), api=collector.url, clock=lambda: 1452032300.0)
    collector.answer(429, headers)
    await store.open()
    failures = await store.clear({Target("urls", f"https://a.example/{path}"): [] for path in "ab"})
    await store.close()
    assert [type(error) for error in failures.values()] == [TransientError, TransientError]
    assert [error.retry_after for error in failures.values()] == [pause, pause]  # type: ignore[attr-defined]
    assert len(collector.received) == 1


def test_fastlys_reset_is_measured_by_the_clock_on_the_wall() -> None:
    """Epoch seconds, as the header has them."""
    assert FastlyStore("s", SecretStr(TOKEN))._clock is time.time


# ---- Cloudflare


async def test_cloudflare_purges_each_kind_by_hundreds(collector: Collector) -> None:
    """One field a request and 100 operations, as its limits are; prefixes without a scheme, files with theirs."""
    urls = [f"https://shop.example/{number}?a=b" for number in range(101)]
    async with cloudflare(collector) as sink:
        await sink.send_batch(
            [
                invalidate(tags=[f"t{number}" for number in range(250)], urls=[*urls[:100], f"{urls[100]}#top"]),
                invalidate(hosts=["Shop.Example", "www.shop.example"], prefixes="https://shop.example/blog/a"),
            ]
        )
    assert {(request.method, request.path) for request in collector.received} == {
        ("POST", "/v4/zones/023e105f4ecef8ad/purge_cache")
    }
    assert {request.headers["authorization"] for request in collector.received} == {f"Bearer {TOKEN}"}
    bodies = [request.json() for request in collector.received]
    assert [{field: len(named) for field, named in body.items()} for body in bodies] == [
        {"tags": 100},
        {"tags": 100},
        {"tags": 50},
        {"hosts": 2},
        {"prefixes": 1},
        {"files": 100},
        {"files": 1},
    ]
    assert bodies[3:5] == [{"hosts": ["shop.example", "www.shop.example"]}, {"prefixes": ["shop.example/blog/a"]}]
    assert bodies[6] == {"files": [urls[100]]}


async def test_cloudflare_purges_everything_only_where_it_is_allowed(collector: Collector) -> None:
    """One request for all of the batch; without the setting none at all."""
    async with cloudflare(collector) as sink:
        with pytest.raises(PermanentError, match="allow_everything = true"):
            await sink.send_batch([invalidate(everything=True)])
    assert collector.received == []
    async with cloudflare(collector, allow_everything=True) as sink:
        await sink.send_batch([invalidate(everything=True), invalidate(tags="t")])
    assert [request.json() for request in collector.received] == [{"purge_everything": True}]


async def test_cloudflares_limit_is_waited_for(collector: Collector) -> None:
    """After a 429 the rest is left for later, with its `Retry-After`; what was taken before is delivered."""
    collector.answer(200)
    collector.answer(429, {"Retry-After": "12"})
    events = [invalidate(tags="t"), invalidate(hosts="a.example"), invalidate(prefixes="https://a.example/")]
    async with cloudflare(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
    assert list(caught.value.failures) == [events[1].id, events[2].id]
    assert [error.retry_after for error in caught.value.failures.values()] == [12.0, 12.0]  # type: ignore[attr-defined]
    assert len(collector.received) == 2


async def test_a_failure_that_cloudflare_tells_in_the_body_is_one(collector: Collector) -> None:
    """The status is 200 all the same; what cannot be read says nothing."""
    for body in (b'{"success": false, "errors": [{"code": 1}]}', b'{"success": true}', b"<html>", b"[" * 50_000, b""):
        collector.answer(200, body=body)
    event = invalidate(tags="t")
    async with cloudflare(collector) as sink:
        with pytest.raises(TransientError, match="in its body that the purge has failed"):
            await sink.send_batch([event])
        for _ in range(4):
            await sink.send_batch([event])
    assert len(collector.received) == 5


@pytest.mark.parametrize(
    "names",
    [
        {"prefixes": "order:"},
        {"prefixes": "/path/alone"},
        {"prefixes": "https://shop.example/a?b"},
        {"prefixes": "https://shop.example/" + "a/" * 31},
        {"urls": "/path/alone"},
        {"hosts": "shop.example/a"},
        {"hosts": ""},
        {"hosts": "user@shop.example"},
        {"tags": "in two"},
        {"tags": "a,b"},
        {"tags": "x" * 1_025},
    ],
)
async def test_what_cloudflare_cannot_take_is_not_sent(collector: Collector, names: dict[str, Any]) -> None:
    """It fails its event alone and is not repeated in the error."""
    bad = invalidate(**names)
    async with cloudflare(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, invalidate(tags="good")])
    assert list(caught.value.failures) == [bad.id]
    (value,) = names.values()
    assert not value or value not in str(caught.value.failures[bad.id])
    assert [request.json() for request in collector.received] == [{"tags": ["good"]}]


# ---- both


@SINKS
@pytest.mark.contract("F03")
async def test_a_refused_token_is_permanent_and_not_repeated(collector: Collector, make: Any) -> None:
    """403 is what a token without the permission gets; check() sees it before the first event."""
    async with make(collector) as sink:
        await sink.check()
        for attempt in (sink.send_batch([invalidate(tags="t")]), sink.check()):
            collector.answer(403)
            with pytest.raises(PermanentError, match="403") as caught:
                await attempt
            assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert TOKEN not in repr(sink) + str(vars(sink)) + str(vars(sink._store))


@SINKS
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_the_vendor_cannot_take_fails_alone(collector: Collector, make: Any, status: int) -> None:
    """A request that is refused for what stands in it is divided until the one is found; the others are purged."""
    events = [invalidate(tags=tag) for tag in ("a", "b", "bad", "c")]
    for answer in (status, 200, status, status, 200):
        collector.answer(answer)
    async with make(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
        assert list(caught.value.failures) == [events[2].id]
        assert f"answered {status}" in str(caught.value.failures[events[2].id])
        sent = [next(iter(request.json().values())) for request in collector.received]
        assert sent == [["a", "b", "bad", "c"], ["a", "b"], ["bad", "c"], ["bad"], ["c"]]
        collector.answer(status)
        collector.answer(503, {"Retry-After": "3"})
        with pytest.raises(TransientError) as later:
            await sink.send_batch(events[:2])
        assert later.value.retry_after == 3.0
        assert len(collector.received) == 7


@SINKS
async def test_a_token_that_is_refused_is_asked_once(collector: Collector, make: Any) -> None:
    """Dividing would not help: one request, for all of the batch."""
    for _ in range(3):
        collector.answer(403)
    async with make(collector) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([invalidate(tags="a"), invalidate(tags="b")])
    assert all(isinstance(error, PermanentError) for error in caught.value.failures.values())
    assert len(collector.received) == 1


@SINKS
@pytest.mark.parametrize("url", ["https://shop.example/a\r\nX-Evil: 1", "https://user:pw@shop.example/", "nonsense"])
async def test_a_url_that_is_none_is_not_sent(collector: Collector, make: Any, url: str) -> None:
    """Nothing breaks out of the request."""
    async with make(collector) as sink:
        with pytest.raises(PermanentError, match="one of the event's urls cannot be purged"):
            await sink.send_batch([invalidate(urls=url)])
    assert collector.received == []


@SINKS
async def test_a_sink_that_was_not_opened_says_so(collector: Collector, make: Any) -> None:
    """A mistake of the caller is no error of the vendor."""
    with pytest.raises(RuntimeError, match="async with"):
        await make(collector).check()
