"""Beside `cashews`: what `@cache(tags=[...])` stored is cleared, in Redis and through its own API."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from cashews import Cache as Cashews
from pydantic import SecretStr
from redis.asyncio import Redis

from sidefx import PartialError, PermanentError, invalidate
from sidefx.testing import check_sink
from sidefx_sinks.cache import Cache
from sidefx_sinks.cache.cashews import CashewsCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Cashews knows asyncio alone."""
    return "asyncio"


@pytest.fixture
def space() -> str:
    """What the test's keys and tags begin with."""
    return f"sidefx-test-{uuid4().hex}"


@pytest.fixture(params=["in memory, by its api", "in Redis, by its api", "in Redis, directly"])
async def beside(request: pytest.FixtureRequest, space: str) -> AsyncIterator[tuple[Cashews, Any]]:
    """Cashews as an application sets it up, and a sink that clears what it caches."""
    cache = Cashews()
    if "memory" in request.param:
        cache.setup("mem://")
        yield cache, CashewsCache(cache=cache)
    else:
        url = request.getfixturevalue("redis_url")
        cache.setup(url, suppress=False)
        async with (
            Redis.from_url(url) as client,
            Cache(store="redis", url=SecretStr(url), tag_prefix="_tag:") as direct,
        ):
            yield cache, direct if "directly" in request.param else CashewsCache(cache=cache)
            async for key in client.scan_iter(match=f"*{space}*", count=1_000):
                await client.unlink(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own call of a name that redis-py gives up
        await cache.close()


class Shop:
    """Functions whose results cashews keeps, and how often they ran."""

    def __init__(self, cache: Cashews, space: str) -> None:
        self.calls = 0
        self.order = cache(
            ttl="10m", key=f"{space}:order:{{order_id}}", tags=[f"{space}:orders", f"{space}:u:{{user}}"]
        )(self._order)

    async def _order(self, order_id: int, user: int) -> int:
        self.calls += 1
        return self.calls


async def test_what_a_decorator_tagged_is_cleared_by_its_tag(beside: tuple[Cashews, Any], space: str) -> None:
    """A tag with a parameter clears what was called with it, one without clears all."""
    cashews, sink = beside
    shop = Shop(cashews, space)
    for _ in range(2):
        assert [await shop.order(1, user=1), await shop.order(2, user=1), await shop.order(3, user=2)] == [1, 2, 3]
    await sink.check()
    await sink.send_batch([invalidate(tags=f"{space}:u:1")])
    assert [await shop.order(3, user=2), await shop.order(1, user=1), await shop.order(2, user=1)] == [3, 4, 5]
    await sink.send_batch([invalidate(tags=f"{space}:orders")])
    assert [await shop.order(3, user=2), await shop.order(1, user=1)] == [6, 7]
    await sink.send_batch([invalidate(tags=f"{space}:orders")])
    await sink.send_batch([invalidate(tags=f"{space}:orders")])
    assert await shop.order(3, user=2) == 8


async def test_keys_and_prefixes_are_cleared(beside: tuple[Cashews, Any], space: str) -> None:
    """By the names that cashews gives them."""
    cashews, sink = beside
    for name in ("a", "b:1", "b:2", "c"):
        await cashews.set(f"{space}:{name}", 1)
    await sink.send_batch([invalidate(keys=[f"{space}:a"], prefixes=f"{space}:b:")])
    assert [await cashews.get(f"{space}:{name}") for name in ("a", "b:1", "b:2", "c")] == [None, None, None, 1]


async def test_it_keeps_the_contract() -> None:
    """The suite of every sink."""
    cache = Cashews()
    cache.setup("mem://")
    await check_sink(lambda: CashewsCache(cache=cache), [invalidate(keys="a"), invalidate(tags="t", prefixes="p")])
    await cache.close()


async def test_everything_needs_to_be_allowed() -> None:
    """As of every cache."""
    cache = Cashews()
    cache.setup("mem://")
    await cache.set("a", 1)
    with pytest.raises(PermanentError, match="allow_everything = true"):
        await CashewsCache(cache=cache).send_batch([invalidate(everything=True)])
    assert await cache.get("a") == 1
    await CashewsCache(cache=cache, allow_everything=True).send_batch([invalidate(everything=True)])
    assert await cache.get("a") is None
    await cache.close()


async def test_a_prefix_that_would_be_a_pattern_is_refused() -> None:
    """It fails its event alone."""
    cache = Cashews()
    cache.setup("mem://")
    await cache.set("a", 1)
    await cache.set("p:1", 1)
    bad = invalidate(prefixes="*")
    with pytest.raises(PartialError) as caught:
        await CashewsCache(cache=cache).send_batch([bad, invalidate(prefixes="p:")])
    assert list(caught.value.failures) == [bad.id]
    assert [await cache.get("a"), await cache.get("p:1")] == [1, None]
    await cache.close()


def test_by_default_it_is_the_one_that_cashews_has() -> None:
    """`from cashews import cache`, by its path."""
    from cashews import cache

    assert CashewsCache()._cache is cache
