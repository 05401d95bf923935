"""The redis store of the sink `cache` on a real Redis Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.crc import key_slot

from sidefx import PartialError, PermanentError, TransientError, invalidate
from sidefx.testing import check_sink
from sidefx_sinks.cache import Cache
from sidefx_sinks.cache.redis_tags import TagSet
from tests.sinks.redis_servers import redis_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows asyncio alone; under trio the runtime hosts the sink on a loop of its own."""
    return "asyncio"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """One cluster for all tests here; each has a namespace of its own."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as ports:
        yield ports


@pytest.fixture
def url(ports: list[int]) -> SecretStr:
    """One node's URL, by which the sink finds the others."""
    return SecretStr(f"redis://127.0.0.1:{ports[0]}")


@pytest.fixture
def space() -> str:
    """A namespace of the test's own."""
    return f"sidefx-test-{uuid4().hex}:"


@pytest.fixture
async def redis(url: SecretStr) -> AsyncIterator[RedisCluster]:
    """A client beside the sink's."""
    async with RedisCluster.from_url(url.get_secret_value(), decode_responses=True) as client:
        yield client


@pytest.fixture
async def sink(url: SecretStr, space: str) -> AsyncIterator[Cache]:
    """An open sink on the test's namespace."""
    async with Cache(store="redis", cluster=True, url=url, namespace=space, allow_everything=True) as opened:
        yield opened


async def fill(redis: RedisCluster, *keys: str, tag: str | None = None) -> None:
    """Cache the keys, and put them under the tag's set."""
    pipe = redis.pipeline()
    for key in keys:
        pipe.set(key, "value")
    await pipe.execute()
    if tag is not None:
        await redis.sadd(tag, *keys)


async def present(redis: RedisCluster, space: str) -> set[str]:
    """What is in the namespace on any node, without the namespace."""
    return {key.removeprefix(space) async for key in redis.scan_iter(match=f"*{space}*", count=1_000)}


async def test_keys_tags_and_prefixes_of_all_slots_are_cleared(sink: Cache, redis: RedisCluster, space: str) -> None:
    """A thousand keys lie in hundreds of slots on three nodes: what is named goes, and neighbours stay."""
    for kind in ("k", "t", "p"):
        tag = f"{space}tag:t" if kind == "t" else None
        await fill(redis, *(f"{space}{kind}:{number}" for number in range(1_200)), tag=tag)
    await fill(redis, f"{space}kept", tag=f"{space}tag:other")
    await sink.check()
    batch = [invalidate(keys=[f"k:{number}" for number in range(1_200)], tags="t", prefixes="p:")]
    await sink.send_batch(batch)
    assert await present(redis, space) == {"kept", "tag:other"}
    await sink.send_batch(batch)
    await sink.send_batch([invalidate(everything=True)])
    assert await present(redis, space) == set()


async def test_every_command_names_keys_of_one_slot_and_500_at_most(
    sink: Cache, redis: RedisCluster, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are grouped by slot: keys that share a hash tag go together, in portions."""
    unlinked: list[list[bytes]] = []
    execute_command = ClusterPipeline.execute_command

    def watched(self: ClusterPipeline, *args: Any, **kwargs: Any) -> Any:
        if args[0] == "UNLINK":
            unlinked.append([str(key).encode() for key in args[1:]])
        return execute_command(self, *args, **kwargs)

    together = [f"{{{space}}}:{number}" for number in range(1_100)]
    apart = [str(number) for number in range(50)]
    await fill(redis, *(space + key for key in together + apart))
    monkeypatch.setattr(ClusterPipeline, "execute_command", watched)
    await sink.send_batch([invalidate(keys=together + apart)])
    monkeypatch.undo()
    assert await present(redis, space) == set()
    assert all(len({key_slot(key) for key in keys}) == 1 for keys in unlinked)
    assert sum(map(len, unlinked)) == 1_150
    assert sorted(map(len, unlinked))[-3:] == [100, 500, 500]


async def test_a_key_added_to_a_tag_meanwhile_is_not_lost(
    sink: Cache, redis: RedisCluster, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached again between pop and end, also where the clearing is then cut off: gone, or found by its tag."""
    tag = f"{space}tag:t"
    keys = [f"{space}{number}" for number in range(20)]
    await fill(redis, *keys, tag=tag)
    execute = ClusterPipeline.execute

    async def cut_off(self: ClusterPipeline, *args: Any, **kwargs: Any) -> Any:
        await execute(self, *args, **kwargs)
        monkeypatch.undo()
        await fill(redis, *keys[:5], f"{space}new", tag=tag)
        raise ConnectionResetError

    monkeypatch.setattr(ClusterPipeline, "execute", cut_off)
    with pytest.raises(TransientError):
        await sink.send_batch([invalidate(tags="t")])
    assert await redis.smembers(tag) == {*keys[:5], f"{space}new"}
    assert set(await redis.hkeys(f"{{{tag}}}:sidefx")) == set(keys)
    await sink.send_batch([invalidate(tags="t")])
    assert await present(redis, space) == set()


@pytest.mark.parametrize("tag", ["{user:1}", "a{user}b", "user:1", "a{b", "größe"])
async def test_set_and_hash_of_a_tag_share_a_slot(sink: Cache, redis: RedisCluster, space: str, tag: str) -> None:
    """With a hash tag of the user's own and without."""
    assert TagSet(redis, f"{space}tag:{tag}").fits_a_cluster
    await fill(redis, f"{space}a", f"{space}b", tag=f"{space}tag:{tag}")
    await sink.send_batch([invalidate(tags=tag)])
    assert await present(redis, space) == set()


async def test_a_tag_that_cannot_have_them_in_one_slot_is_refused(sink: Cache, redis: RedisCluster, space: str) -> None:
    """It fails its own event with the reason, and the others are cleared."""
    await fill(redis, f"{space}a", tag=f"{space}tag:t")
    for bad in (invalidate(tags="a}b"), invalidate(tags="{}")):
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, invalidate(tags="t")])
        assert list(caught.value.failures) == [bad.id]
        assert "pair of braces" in str(caught.value.failures[bad.id])
    assert await present(redis, space) == set()


async def test_everything_without_a_namespace_is_every_node(
    url: SecretStr, redis: RedisCluster, ports: list[int]
) -> None:
    """FLUSHDB of all primaries."""
    await fill(redis, *(str(number) for number in range(100)))
    async with Cache(store="redis", cluster=True, url=url, allow_everything=True) as sink:
        await sink.send_batch([invalidate(everything=True)])
    for port in ports:
        async with Redis(host="127.0.0.1", port=port) as node:
            assert await node.dbsize() == 0


async def test_it_keeps_the_contract(url: SecretStr, space: str) -> None:
    """The suite of every sink."""
    await check_sink(
        lambda: Cache(store="redis", cluster=True, url=url, namespace=space),
        [invalidate(keys="a"), invalidate(tags=["t"], prefixes="p")],
    )


async def test_one_server_taken_for_a_cluster_is_told(redis_url: str) -> None:
    """The error says which setting is wrong."""
    async with Cache(store="redis", cluster=True, url=SecretStr(redis_url)) as sink:
        for attempt in (sink.check(), sink.send_batch([invalidate(keys="a")])):
            with pytest.raises(PermanentError, match="is no cluster; remove cluster = true"):
                await attempt


async def test_a_cluster_taken_for_one_server_is_told(url: SecretStr, space: str) -> None:
    """What lies on other nodes, or in several slots, fails with the setting that helps."""
    async with Cache(store="redis", url=url, namespace=space) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([invalidate(keys=str(number)) for number in range(20)])
    for error in caught.value.failures.values():
        assert isinstance(error, PermanentError)
        assert "is a cluster; set cluster = true" in str(error)


async def test_an_unreachable_cluster_is_tried_again(space: str) -> None:
    """No node answers: one line that names the place and never the password."""
    url = SecretStr("redis://app:hunter2@127.0.0.1:1")
    async with Cache(store="redis", cluster=True, url=url, namespace=space) as sink:
        for attempt in (sink.check(), sink.send_batch([invalidate(keys="a")])):
            with pytest.raises(TransientError, match=r"127\.0\.0\.1:1") as caught:
                await attempt
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h/3", "unix:///tmp/redis.sock"])
def test_a_url_that_no_cluster_has_is_refused(url: str) -> None:
    """A cluster has one database, and no socket file reaches it."""
    with pytest.raises(ValueError, match="database 0 alone"):
        Cache(store="redis", cluster=True, url=SecretStr(url))
