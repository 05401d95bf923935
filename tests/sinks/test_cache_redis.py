"""The redis store of the sink `cache`, on a real Redis."""

from __future__ import annotations

import socket
import traceback
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import SecretStr
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from sidefx import PartialError, PermanentError, TransientError, invalidate
from sidefx_sinks.cache import Cache
from sidefx_sinks.cache import redis as cache_redis
from sidefx_sinks.cache.redis import RedisStore
from sidefx_sinks.cache.redis_tags import TagSet
from sidefx_sinks.cache.store import Target
from tests.sinks.redis_servers import redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.anyio

PASSWORD = "hunter2-secret"


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows asyncio alone; under trio the runtime hosts the sink on a loop of its own."""
    return "asyncio"


@pytest.fixture
def space() -> str:
    """A namespace of the test's own."""
    return f"sidefx-test-{uuid4().hex}:"


@pytest.fixture
async def redis(redis_url: str, space: str) -> AsyncIterator[Redis]:
    """A client beside the sink's; afterwards the namespace is empty."""
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
        async for key in client.scan_iter(match=f"*{space}*", count=1_000):
            await client.unlink(key)


@pytest.fixture
async def sink(redis_url: str, space: str) -> AsyncIterator[Cache]:
    """An open sink on the test's namespace."""
    async with Cache(store="redis", url=SecretStr(redis_url), namespace=space, allow_everything=True) as opened:
        yield opened


async def fill(redis: Redis, *keys: str, tag: str | None = None) -> None:
    """Cache the keys, and put them under the tag's set, as an application does: in one transaction."""
    pipe = redis.pipeline(transaction=True)
    for key in keys:
        pipe.set(key, "value")
        if tag is not None:
            pipe.sadd(tag, key)
    await pipe.execute()


async def present(redis: Redis, space: str) -> set[str]:
    """What is in the namespace, without the namespace."""
    return {key.removeprefix(space) async for key in redis.scan_iter(match=f"{space}*", count=1_000)}


async def tagged_and_cached(redis: Redis, space: str, tag: str) -> tuple[set[str], set[str]]:
    """What the tag still leads to, in its set or popped and not yet done; the keys that hold a value."""
    popped = await redis.hkeys(f"{{{tag}}}:sidefx")
    return {*await redis.smembers(tag), *popped}, {space + key for key in await present(redis, space)} - {tag}


@asynccontextmanager
async def commands(redis_url: str, space: str) -> AsyncIterator[list[list[str]]]:
    """The commands on that namespace that reach the server in the block, complete after it."""
    seen: list[list[str]] = []
    end = f"end-of-{space}"
    async with Redis.from_url(redis_url, decode_responses=True) as client, client.monitor() as monitor:
        yield seen
        async with Redis.from_url(redis_url) as other:
            await other.echo(end)
        async for entry in monitor.listen():
            if end in entry["command"]:
                break
            if space in entry["command"]:
                seen.append(entry["command"].split(" "))


def around_portions(
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: Callable[[int], Awaitable[None]] | None = None,
    after: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Call the hooks with the number of each UNLINK of a portion of the sink's, from 1, right before and after it."""
    execute = Pipeline.execute
    count = 0

    async def hooked(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if not any("UNLINK" in command for command, _ in self.command_stack):
            return await execute(self, *args, **kwargs)
        count += 1
        number = count
        if before is not None:
            await before(number)
        result = await execute(self, *args, **kwargs)
        if after is not None:
            await after(number)
        return result

    monkeypatch.setattr(Pipeline, "execute", hooked)


# ---- what is cleared


async def test_keys_are_unlinked_below_the_namespace(sink: Cache, redis: Redis, space: str) -> None:
    """A key is looked for with the namespace before it, and neighbours stay."""
    bare = f"bare-{space}"
    await fill(redis, f"{space}a", f"{space}b", f"{space}ab", bare)
    await sink.send_batch([invalidate(keys=["a", "b", "never-there", bare])])
    assert await present(redis, space) == {"ab"}
    assert await redis.unlink(bare) == 1


async def test_a_tag_clears_its_keys_and_then_its_set(sink: Cache, redis: Redis, space: str) -> None:
    """More keys than one portion: all of them go, and those under another tag stay."""
    keys = [f"{space}page:{number}" for number in range(1_700)]
    await fill(redis, *keys, tag=f"{space}tag:orders")
    await fill(redis, f"{space}other", tag=f"{space}tag:users")
    await sink.send_batch([invalidate(tags=["orders"])])
    assert await present(redis, space) == {"other", "tag:users"}


@pytest.mark.parametrize("names", [{"keys": "a"}, {"tags": "t"}, {"prefixes": "a"}, {"everything": True}])
async def test_a_batch_may_be_sent_twice(sink: Cache, redis: Redis, space: str, names: dict[str, Any]) -> None:
    """Clearing what is already clear is no error, as after a retry."""
    await fill(redis, f"{space}a", tag=f"{space}tag:t")
    batch = [invalidate(**names)]
    await sink.send_batch(batch)
    assert "a" not in await present(redis, space)
    await sink.send_batch(batch)


@pytest.mark.parametrize("prefix", ["a*b:", "a?b:", "a[x]b:", "a[", "a]b:", "a\\b:", "a^b:", "a\\*", "größe:"])
async def test_a_prefix_is_taken_literally(sink: Cache, redis: Redis, space: str, prefix: str) -> None:
    """Glob characters in a prefix stand for themselves: nothing else goes, and what is meant does."""
    lookalikes = {"aXb:1", "axb:1", "aXXb:1", "a", "ab:1", "a\\", "groesse:1"}
    await fill(redis, *(space + key for key in lookalikes), f"{space}{prefix}1", f"{space}{prefix}2")
    await sink.send_batch([invalidate(prefixes=[prefix])])
    assert await present(redis, space) == lookalikes


async def test_a_namespace_is_taken_literally_too(redis: Redis, redis_url: str, space: str) -> None:
    """A `*` in the namespace reaches no other namespace."""
    await fill(redis, f"{space}*:a", f"{space}X:a")
    async with Cache(store="redis", url=SecretStr(redis_url), namespace=f"{space}*:") as sink:
        await sink.send_batch([invalidate(prefixes="a")])
    assert await present(redis, space) == {"X:a"}


async def test_ten_thousand_keys_below_a_prefix(sink: Cache, redis: Redis, space: str) -> None:
    """All of them go, and a neighbour stays."""
    await fill(redis, *(f"{space}list:{number}" for number in range(10_000)), f"{space}lists")
    await sink.send_batch([invalidate(prefixes="list:")])
    assert await present(redis, space) == {"lists"}


async def test_everything_is_the_namespace_and_no_more(sink: Cache, redis: Redis, space: str) -> None:
    """Keys beyond the namespace are somebody else's."""
    outside = f"outside-{space}"
    await fill(redis, f"{space}a", outside, tag=f"{space}tag:t")
    await sink.send_batch([invalidate(everything=True)])
    assert await present(redis, space) == set()
    assert await redis.unlink(outside) == 1


async def test_everything_without_a_namespace_is_the_database(redis_url: str) -> None:
    """One FLUSHDB, of the database in the URL."""
    url = urlunsplit(urlsplit(redis_url)._replace(path="/13"))
    async with Redis.from_url(url) as client:
        if await client.dbsize():
            pytest.skip("database 13 of the test Redis is in use; it is not flushed")
        await client.set("a", "value")
        async with Cache(store="redis", url=SecretStr(url), allow_everything=True) as sink:
            await sink.send_batch([invalidate(everything=True)])
        assert await client.dbsize() == 0


# ---- how


async def test_what_a_batch_shares_is_asked_of_redis_once(
    sink: Cache, redis: Redis, redis_url: str, space: str
) -> None:
    """Equal keys, tags and prefixes of several events make one command each."""
    await fill(redis, f"{space}k", tag=f"{space}tag:t")
    await fill(redis, f"{space}p:1")
    event = {"keys": ["k"], "tags": ["t"], "prefixes": ["p:"]}
    async with commands(redis_url, space) as seen:
        await sink.send_batch([invalidate(**event), invalidate(**event), invalidate(**event)])
    assert seen.count(["UNLINK", f"{space}k"]) == 2  # by name, and as the tag's one member
    assert [command[0] for command in seen].count("SPOP") == 2  # a portion, and that there is no more
    assert [command[:2] for command in seen].count(["SCAN", "0"]) == 1


async def test_no_command_names_more_than_500_keys(sink: Cache, redis: Redis, redis_url: str, space: str) -> None:
    """Keys, tags and prefixes go in portions, and the key space is never listed by KEYS."""
    for kind in ("k", "t", "p"):
        tag = f"{space}tag:t" if kind == "t" else None
        await fill(redis, *(f"{space}{kind}:{number}" for number in range(1_100)), tag=tag)
    async with commands(redis_url, space) as seen:
        keys = [f"k:{number}" for number in range(1_100)]
        await sink.send_batch([invalidate(keys=keys, tags="t", prefixes="p:")])
    assert await present(redis, space) == set()
    sizes = [len(command) - 1 for command in seen if command[0] == "UNLINK"]
    assert sum(sizes) >= 3_300
    assert max(sizes) <= 500
    assert {command[0] for command in seen} == {"EVAL", "SPOP", "HKEYS", "HSET", "HGET", "HDEL", "UNLINK", "SCAN"}


# ---- tags and those who cache meanwhile


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
async def test_keys_added_to_a_tag_meanwhile_are_not_lost(
    sink: Cache, redis: Redis, space: str, monkeypatch: pytest.MonkeyPatch, moment: str, number: int
) -> None:
    """Keys cached between the steps of a clearing are gone or under their tag, so the next clearing meets them."""
    tag = f"{space}tag:t"
    keys = [f"{space}{number}" for number in range(1_200)]
    await fill(redis, *keys, tag=tag)

    async def cache_again(at: int) -> None:
        if at == number:
            await fill(redis, *keys, f"{space}new", tag=tag)

    around_portions(monkeypatch, **{moment: cache_again})
    await sink.send_batch([invalidate(tags="t")])
    monkeypatch.undo()

    members, cached = await tagged_and_cached(redis, space, tag)
    assert cached <= members
    await sink.send_batch([invalidate(tags="t")])
    assert await present(redis, space) == set()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_clearing_cut_off_is_finished_by_the_next(
    sink: Cache, redis: Redis, space: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A connection that breaks before or after any portion leaves each key gone or to be found by its tag."""
    tag = f"{space}tag:t"
    await fill(redis, *(f"{space}{number}" for number in range(1_200)), tag=tag)

    async def break_off(number: int) -> None:
        if number == 2:
            raise exceptions.ConnectionError

    around_portions(monkeypatch, **{moment: break_off})
    with pytest.raises(TransientError):
        await sink.send_batch([invalidate(tags="t")])
    monkeypatch.undo()

    members, cached = await tagged_and_cached(redis, space, tag)
    assert 0 < len(cached) < 1_200
    assert cached <= members
    await sink.send_batch([invalidate(tags="t")])
    assert await present(redis, space) == set()


async def test_a_cancelled_clearing_is_finished_by_the_next(
    sink: Cache, redis: Redis, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane's timeout may cancel anywhere: keys and tag stay in step, and the connection is usable afterwards."""
    tag = f"{space}tag:t"
    await fill(redis, *(f"{space}{number}" for number in range(1_200)), tag=tag)
    scope = anyio.CancelScope()

    async def cancel(number: int) -> None:
        if number == 2:
            scope.cancel()

    around_portions(monkeypatch, before=cancel)
    with scope:
        await sink.send_batch([invalidate(tags="t")])
    monkeypatch.undo()
    assert scope.cancelled_caught

    members, cached = await tagged_and_cached(redis, space, tag)
    assert cached
    assert cached <= members
    await sink.send_batch([invalidate(tags="t")])
    assert await present(redis, space) == set()


@pytest.mark.parametrize("dies", [False, True])
async def test_two_clearings_at_once_lose_nothing_between_them(
    sink: Cache, redis: Redis, redis_url: str, space: str, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """One is held between unlinking and noting it; the keys are cached again; another pops them, and may die there."""
    tag = f"{space}tag:t"
    keys = [f"{space}{number}" for number in range(3)]
    await fill(redis, *keys, tag=tag)
    other = RedisStore(SecretStr(redis_url), namespace=space, tag_prefix="tag:", scan_count=100)
    await other.open()

    async def second(number: int) -> None:
        if number == 1:  # the first has unlinked its portion, and not struck it out
            await fill(redis, *keys, tag=tag)
            taken = TagSet(redis, tag)
            assert len(await taken.take(500)) == 3
            if not dies:
                await redis.unlink(*keys)
                await taken.done([key.encode() for key in keys])

    around_portions(monkeypatch, after=second)
    await sink.send_batch([invalidate(tags="t")])
    monkeypatch.undo()

    members, cached = await tagged_and_cached(redis, space, tag)
    assert cached == members == (set(keys) if dies else set())
    await other.clear({Target("tags", "t"): []})
    await other.close()
    assert await tagged_and_cached(redis, space, tag) == (set(), set())


@pytest.mark.parametrize("tag", ["a}b", "{}", "{u}1", "a{b", "größe", "a*"])
async def test_any_name_can_be_a_tag(sink: Cache, redis: Redis, space: str, tag: str) -> None:
    """On one server braces mean nothing."""
    await fill(redis, f"{space}k", tag=f"{space}tag:{tag}")
    await sink.send_batch([invalidate(tags=tag)])
    assert await present(redis, space) == set()


# ---- errors


def free_port() -> int:
    """A port of the loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def all_of(error: BaseException) -> str:
    """The error as a log shows it, causes included."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.contract("F03")
async def test_an_unreachable_redis_lets_the_sink_open_and_is_tried_again() -> None:
    """Opening succeeds; sending and checking raise one line that names the place and never the password."""
    port = free_port()
    url = SecretStr(f"redis://app:{PASSWORD}@127.0.0.1:{port}/0")
    async with Cache(store="redis", url=url) as sink:
        for attempt in (sink.send_batch([invalidate(keys="a")]), sink.check()):
            with pytest.raises(TransientError, match=f"no answer from Redis at 127.0.0.1:{port}") as caught:
                await attempt
            assert "\n" not in str(caught.value)
            assert PASSWORD not in all_of(caught.value)
        assert PASSWORD not in repr(sink)


@asynccontextmanager
async def user(redis: Redis, redis_url: str, *rules: str) -> AsyncIterator[str]:
    """A Redis user with these rules; the URL that logs in as them."""
    name = f"sidefx-test-{uuid4().hex}"
    await redis.execute_command("ACL", "SETUSER", name, "on", f">{PASSWORD}", *rules)
    parts = urlsplit(redis_url)
    try:
        yield urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}"))
    finally:
        await redis.execute_command("ACL", "DELUSER", name)


@pytest.mark.contract("F03")
async def test_a_refused_login_is_permanent(redis: Redis, redis_url: str) -> None:
    """A wrong password is not tried again, and not repeated."""
    async with user(redis, redis_url, "+@all", "~*") as url:
        wrong = SecretStr(url.replace(PASSWORD, PASSWORD + "x"))
        async with Cache(store="redis", url=wrong) as sink:
            for attempt in (sink.send_batch([invalidate(keys="a"), invalidate(keys="b")]), sink.check()):
                with pytest.raises((PermanentError, PartialError)) as caught:
                    await attempt
                errors = (
                    list(caught.value.failures.values()) if isinstance(caught.value, PartialError) else [caught.value]
                )
                for error in errors:
                    assert isinstance(error, PermanentError)
                    assert "refuses the login" in str(error)
                    assert PASSWORD not in all_of(error)


async def test_a_key_that_the_user_may_not_touch_fails_its_event_alone(
    redis: Redis, redis_url: str, space: str
) -> None:
    """Of a chunk that Redis refuses, the other keys are cleared; no error quotes a key."""
    await fill(redis, f"{space}mine:1", f"{space}theirs:1", f"{space}mine:2")
    async with user(redis, redis_url, "+@all", f"~{space}mine:*") as url:
        theirs = invalidate(keys="theirs:1")
        async with Cache(store="redis", url=SecretStr(url), namespace=space) as sink:
            with pytest.raises(PartialError) as caught:
                await sink.send_batch([invalidate(keys="mine:1"), theirs, invalidate(keys="mine:2")])
    assert list(caught.value.failures) == [theirs.id]
    error = caught.value.failures[theirs.id]
    assert isinstance(error, PermanentError)
    assert "NOPERM" in str(error)
    assert space not in all_of(error)
    assert await present(redis, space) == {"theirs:1"}


async def test_a_tag_with_a_forbidden_key_keeps_it(redis: Redis, redis_url: str, space: str) -> None:
    """A key that could not be unlinked is under its tag again, the others are gone, and no error quotes a key."""
    tag = f"{space}tag:t"
    await fill(redis, f"{space}mine", f"{space}theirs", tag=tag)
    async with user(redis, redis_url, "+@all", f"~{tag}", f"~{{{tag}}}*", f"~{space}mine") as url:
        sink = Cache(store="redis", url=SecretStr(url), namespace=space)
        async with sink:
            with pytest.raises(PermanentError, match="NOPERM") as caught:
                await sink.send_batch([invalidate(tags="t")])
    assert space not in all_of(caught.value)
    assert await present(redis, space) == {"theirs", "tag:t"}
    assert await redis.smembers(tag) == {f"{space}theirs"}
    assert not await redis.exists(f"{{{tag}}}:sidefx")


async def test_a_forbidden_key_leaves_the_others_of_its_tag_or_prefix_to_be_cleared(
    redis: Redis, redis_url: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many portions come after it; it stays, under its tag."""
    monkeypatch.setattr(cache_redis, "_CHUNK", 2)
    tag = f"{space}tag:t"
    mine = [f"{space}key:{number}" for number in range(20)]
    async with user(redis, redis_url, "+@all", f"~{tag}", f"~{{{tag}}}*", *(f"~{key}" for key in mine)) as url:
        sink = Cache(store="redis", url=SecretStr(url), namespace=space, scan_count=1)
        async with sink:
            for kind, name in (("tags", "t"), ("prefixes", "key:")):
                names: dict[str, Any] = {kind: name}
                await fill(redis, *mine, f"{space}key:theirs", tag=tag)
                with pytest.raises(PermanentError, match="NOPERM"):
                    await sink.send_batch([invalidate(**names)])
                assert await present(redis, space) == {"key:theirs", "tag:t"}
                assert f"{space}key:theirs" in await redis.smembers(tag)


async def test_a_user_without_scripts_is_told(redis: Redis, redis_url: str, space: str) -> None:
    """A command that is denied, alone or within a script, is permanent; the tag keeps its keys."""
    tag = f"{space}tag:t"
    await fill(redis, f"{space}a", tag=tag)
    for denied in ("-eval", "-spop", "-hset"):
        async with (
            user(redis, redis_url, "+@all", "~*", denied) as url,
            Cache(store="redis", url=SecretStr(url), namespace=space) as sink,
        ):
            with pytest.raises(PermanentError, match=r"NOPERM.*grant the user"):
                await sink.send_batch([invalidate(tags="t")])
        members, cached = await tagged_and_cached(redis, space, tag)
        assert cached == members == {f"{space}a"}


async def test_something_else_in_place_of_a_tags_set_fails_that_tag_alone(
    sink: Cache, redis: Redis, space: str
) -> None:
    """The error says what is wrong, and the other tags and keys of the batch are cleared."""
    await fill(redis, f"{space}tag:broken", f"{space}key")
    await fill(redis, f"{space}page", tag=f"{space}tag:t")
    broken = invalidate(tags="broken")
    with pytest.raises(PartialError) as caught:
        await sink.send_batch([broken, invalidate(tags="t"), invalidate(keys="key")])
    assert list(caught.value.failures) == [broken.id]
    assert "WRONGTYPE" in str(caught.value.failures[broken.id])
    assert "other than a set" in str(caught.value.failures[broken.id])
    assert await present(redis, space) == {"tag:broken"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), TransientError),
        (exceptions.TimeoutError("Timeout reading from socket"), TransientError),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), TransientError),
        (exceptions.MasterDownError("Link with MASTER is down"), TransientError),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots, but ..."), TransientError),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), TransientError),
        (
            exceptions.ResponseError("Command # 1 (UNLINK secret) of pipeline caused error: ('MISCONF Redis is',)"),
            TransientError,
        ),
        (exceptions.ResponseError("unknown command 'UNLINK', with args beginning with: 'secret'"), PermanentError),
        (
            exceptions.ResponseError("Command # 1 (UNLINK BUSY secret) of pipeline caused error: ('ERR no',)"),
            PermanentError,
        ),
    ],
)
def test_states_of_a_server_pass_and_refusals_stay(error: Exception, kind: type[Exception]) -> None:
    """A server that loads, fails over or cannot save is tried again; no answer's text is repeated."""
    store = RedisStore(SecretStr("redis://h"), namespace="", tag_prefix="", scan_count=1)
    raised = store._error(error)
    assert type(raised) is kind
    assert "secret" not in str(raised)


async def test_a_server_without_memory_forgets_all_the_same(tmp_path: Path) -> None:
    """Clearing is what gives it room again: a tag with a portion left over from an attempt that was cut off."""
    with redis_server(tmp_path, "--maxmemory", "4mb") as port:
        url = f"redis://127.0.0.1:{port}"
        async with Redis.from_url(url, decode_responses=True) as redis:
            await fill(redis, *(str(number) for number in range(1_200)), tag="tag:t")
            await TagSet(redis, "tag:t").take(300)
            with suppress(exceptions.OutOfMemoryError):
                while True:
                    await redis.append("ballast", "x" * 100_000)
            async with Cache(store="redis", url=SecretStr(url)) as sink:
                await sink.send_batch([invalidate(tags="t", keys="never-there")])
            assert await redis.keys() == ["ballast"]


# ---- life


async def test_check_is_silent_where_redis_answers_and_closing_closes(redis: Redis, redis_url: str) -> None:
    """After leaving the sink none of its connections is left at the server."""
    name = f"sidefx-test-{uuid4().hex}"

    async def connections() -> int:
        return sum(client["name"] == name for client in await redis.client_list())

    async with Cache(store="redis", url=SecretStr(f"{redis_url}?client_name={name}")) as sink:
        assert await connections() == 0
        await sink.check()
        assert await connections() == 1
    with anyio.fail_after(10):
        while await connections():  # the server notices when it next looks at its sockets
            await checkpoint()


async def test_a_sink_that_was_not_opened_says_so(redis_url: str) -> None:
    """A mistake of the caller is no error of Redis."""
    with pytest.raises(RuntimeError, match="async with"):
        await Cache(store="redis", url=SecretStr(redis_url)).check()
