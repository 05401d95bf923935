"""What the redis store of the sink `cache` publishes, and `follow`, by which local caches hear of it."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import SecretStr
from redis.asyncio import Redis

from sidefx import PermanentError, TransientError, invalidate
from sidefx_sinks.cache import Cache, MemoryCache
from sidefx_sinks.cache.channel import follow, messages
from sidefx_sinks.cache.store import EVERYTHING, Target
from tests.sinks.nodes import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows asyncio alone."""
    return "asyncio"


@pytest.fixture
def channel() -> str:
    """A channel of the test's own."""
    return f"sidefx-test-{uuid4().hex}"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client beside the sink's."""
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@asynccontextmanager
async def following(redis: Redis, url: str, channel: str, *caches: Any) -> AsyncIterator[None]:
    """The caches follow the channel in the block."""
    async with anyio.create_task_group() as group:
        group.start_soon(follow, url, channel, *caches)
        with anyio.fail_after(10):
            while (await redis.pubsub_numsub(channel))[0][1] != 1:
                await checkpoint()
        yield
        group.cancel_scope.cancel()


def filled() -> MemoryCache:
    """A local cache with a key, a tag and a prefix."""
    cache = MemoryCache()
    cache.set("key", 1)
    cache.set("tagged", 2, tags=["t"])
    cache.set("p:1", 3)
    cache.set("kept", 4)
    return cache


async def test_local_caches_forget_what_the_sink_clears(redis: Redis, redis_url: str, channel: str) -> None:
    """Keys, tags and prefixes, by the names that the events gave them, in every cache that follows."""
    local, other = filled(), filled()
    sink = Cache(store="redis", url=redis_url, namespace=f"{channel}:", channel=channel, allow_everything=True)
    async with sink, following(redis, redis_url, channel, local, other):
        await until(lambda: len(local) == len(other) == 0)  # nobody knows what was said before
        for key in ("key", "p:1", "kept"):
            local.set(key, 1)
            other.set(key, 1)
        local.set("tagged", 2, tags=["t"])
        await sink.send_batch([invalidate(keys="key", tags="t", prefixes="p:")])
        await until(lambda: len(local) == 1 and len(other) == 1)
        assert "kept" in local
        await sink.send_batch([invalidate(everything=True)])
        await until(lambda: len(local) == len(other) == 0)


async def test_it_is_published_after_redis_has_forgotten(redis: Redis, redis_url: str, channel: str) -> None:
    """A local cache that is told fills itself again from a Redis that no longer has the old value."""
    await redis.set(f"{channel}:key", "old")
    seen: list[Any] = []
    async with (
        Cache(store="redis", url=redis_url, namespace=f"{channel}:", channel=channel) as sink,
        redis.pubsub(ignore_subscribe_messages=True) as subscription,
    ):
        await subscription.subscribe(channel)
        await sink.send_batch([invalidate(keys="key"), invalidate(keys="key", tags=["t"])])
        with anyio.fail_after(10):
            while not seen:
                message = await subscription.get_message(timeout=10)
                seen += [] if message is None else [json.loads(message["data"])]
        assert await redis.get(f"{channel}:key") is None
    assert seen == [{"keys": ["key"], "tags": ["t"]}]


async def test_after_a_broken_connection_everything_is_forgotten(
    redis: Redis, redis_url: str, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was published meanwhile is lost, so it may have been anything."""
    cache = filled()
    name = f"{channel}-client"
    async with following(redis, f"{redis_url}?client_name={name}", channel, cache):
        await until(lambda: len(cache) == 0)
        cache.set("stale", 1)
        with caplog.at_level(logging.WARNING, "sidefx"):
            clients = [client["id"] for client in await redis.client_list() if client["name"] == name]
            await redis.client_kill_filter(_id=clients[0])
            await until(lambda: "stale" not in cache)
    assert "trying again" in caplog.text


async def test_a_strangers_message_makes_them_forget_everything(
    redis: Redis, redis_url: str, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have said anything; following goes on, and the log does not repeat it."""
    cache = MemoryCache()
    async with following(redis, redis_url, channel, cache):
        for strange in ("strange\nnews", '{"keys": 3}', "[]"):
            await until(lambda: len(cache) == 0)
            cache.set("a", 1)
            await redis.publish(channel, strange)
            await until(lambda: "a" not in cache)
    assert "is not the sink's" in caplog.text
    assert "strange" not in caplog.text


class Broken:
    """A cache that cannot forget."""

    def invalidate(self, **names: Any) -> None:
        """Fails."""
        raise RuntimeError(str(names))


async def test_a_cache_that_fails_does_not_keep_the_others_from_forgetting(
    redis: Redis, redis_url: str, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, without the names, and following goes on."""
    cache = filled()
    async with following(redis, redis_url, channel, Broken(), cache):
        await until(lambda: len(cache) == 0)
        cache.set("hidden", 1)
        await redis.publish(channel, '{"keys": ["hidden"]}')
        await until(lambda: len(cache) == 0)
    assert caplog.text.count("a local Broken has not forgotten: RuntimeError") == 2
    assert "hidden" not in caplog.text


async def test_following_a_server_that_is_away_goes_on_trying(caplog: pytest.LogCaptureFixture, channel: str) -> None:
    """It neither ends nor shows the password."""
    async with anyio.create_task_group() as group:
        group.start_soon(follow, f"redis://app:hunter2@127.0.0.1:{free_port()}", channel, MemoryCache())
        with caplog.at_level(logging.WARNING, "sidefx"):
            await until(lambda: caplog.text.count("trying again") >= 2)
        group.cancel_scope.cancel()
    assert "hunter2" not in caplog.text


async def test_a_channel_that_is_denied_fails_the_event(redis: Redis, redis_url: str, channel: str) -> None:
    """Local caches that would go on with the old value are no success."""
    user = f"user-{channel}"
    await redis.execute_command("ACL", "SETUSER", user, "on", ">hunter2", "+@all", "~*", "resetchannels")
    try:
        url = SecretStr(redis_url.replace("redis://", f"redis://{user}:hunter2@"))
        async with Cache(store="redis", url=url, namespace=f"{channel}:", channel=channel) as sink:
            with pytest.raises(PermanentError, match="PUBLISH"):
                await sink.send_batch([invalidate(keys="a")])
    finally:
        await redis.execute_command("ACL", "DELUSER", user)
    async with Cache(store="redis", url=f"redis://127.0.0.1:{free_port()}", channel=channel) as sink:
        with pytest.raises(TransientError):
            await sink.send_batch([invalidate(keys="a")])


def test_a_message_is_bounded() -> None:
    """Many names are several messages, and none is left out."""
    targets = [Target("keys", str(number)) for number in range(1_200)] + [Target("tags", "t"), EVERYTHING]
    said = [json.loads(message) for message in messages(targets)]
    assert [name for message in said for name in message.get("keys", [])] == [target.name for target in targets[:1_200]]
    assert max(sum(len(names) for names in message.values() if isinstance(names, list)) for message in said) == 500
    assert said[-1]["tags"] == ["t"]
    assert said[-1]["everything"] is True
