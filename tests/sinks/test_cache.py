"""The sink `cache` before any store, and the memory store with its `MemoryCache`."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints
from uuid import uuid4

import pytest
from pydantic import SecretStr, ValidationError

from sidefx import (
    InvalidateEvent,
    MissingExtraError,
    PartialError,
    PermanentError,
    SideEffects,
    TransientError,
    invalidate,
)
from sidefx.sink import inspect_sink
from sidefx_sinks.cache import Cache, MemoryCache
from sidefx_sinks.cache.store import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = pytest.mark.anyio

PAGE = Path(__file__, "../../../docs/sinks/cache.md").resolve().read_text(encoding="utf-8")


class CountingStore:
    """A store that writes down what it is asked to clear, and refuses what it is told to."""

    clears: tuple[str, ...] = ("keys", "tags", "prefixes", "everything")

    def __init__(self, refuses: dict[Target, Exception] | None = None, away: Exception | None = None) -> None:
        self.cleared: list[Target] = []
        self._refuses = refuses or {}
        self._away = away

    async def clear(self, targets: Sequence[Target]) -> dict[Target, Exception]:
        if self._away is not None:
            raise self._away
        self.cleared += targets
        return {target: self._refuses[target] for target in targets if target in self._refuses}


def sink_of(store: CountingStore, **settings: Any) -> Cache:
    """A sink over that store."""
    sink = Cache(store="memory", **settings)
    sink._store = store
    return sink


@asynccontextmanager
async def memory() -> AsyncIterator[tuple[Cache, MemoryCache]]:
    """An open sink and the cache of its own that it clears."""
    name = f"test-{uuid4()}"
    async with Cache(store="memory", name=name, allow_everything=True) as sink:
        yield sink, MemoryCache.named(name)


# ---- the sink


async def test_duplicates_within_a_batch_are_cleared_once_in_order() -> None:
    """What several events of a batch name is cleared once, in the order of its first mention."""
    store = CountingStore()
    events = [
        invalidate(keys=["a", "b", "a"], tags=["t"]),
        invalidate(keys=["c", "a"], tags=["t", "u"], prefixes=["p:"]),
        invalidate(prefixes=["p:"]),
    ]
    await sink_of(store).send_batch(events)
    assert store.cleared == [
        Target("keys", "a"),
        Target("keys", "b"),
        Target("tags", "t"),
        Target("keys", "c"),
        Target("tags", "u"),
        Target("prefixes", "p:"),
    ]


async def test_an_event_that_names_only_what_the_store_cannot_clear_is_refused() -> None:
    """The error names what the store can clear, and its batch mates are cleared."""
    store = CountingStore()
    urls, keys = invalidate(urls=["https://shop.example/"]), invalidate(keys=["a"])
    with pytest.raises(PartialError) as caught:
        await sink_of(store).send_batch([urls, keys])
    assert list(caught.value.failures) == [urls.id]
    assert isinstance(caught.value.failures[urls.id], PermanentError)
    assert "clears keys, tags, prefixes, everything" in str(caught.value.failures[urls.id])
    assert store.cleared == [Target("keys", "a")]


async def test_of_a_mixed_event_what_applies_is_cleared() -> None:
    """One event may speak to several caches: each takes what it can clear."""
    store = CountingStore()
    await sink_of(store).send_batch([invalidate(urls=["https://shop.example/"], keys=["a"])])
    assert store.cleared == [Target("keys", "a")]


def test_an_event_may_name_hosts_alone() -> None:
    """One, or several; with nothing at all there is nothing to invalidate."""
    assert invalidate(hosts="shop.example").hosts == ("shop.example",)
    event = invalidate(hosts=["a.example", "b.example"], keys="k")
    assert InvalidateEvent.model_validate_json(event.model_dump_json()) == event
    with pytest.raises(ValidationError, match="hosts or everything=True: there is nothing to invalidate"):
        invalidate(hosts=[])


async def test_hosts_are_for_the_stores_that_have_them() -> None:
    """Elsewhere an event of hosts alone is refused, and of a mixed one the rest is cleared."""
    store = CountingStore()
    sink = sink_of(store)
    with pytest.raises(PermanentError, match="the event names only hosts"):
        await sink.send_batch([invalidate(hosts="shop.example")])
    await sink.send_batch([invalidate(hosts="shop.example", keys="a")])
    store.clears = ("hosts",)
    await sink.send_batch([invalidate(hosts="shop.example", keys="a")])
    assert store.cleared == [Target("keys", "a"), Target("hosts", "shop.example")]


@pytest.mark.parametrize(
    "event", [invalidate(everything=True), invalidate(prefixes=""), invalidate(keys="k", everything=True)]
)
async def test_everything_needs_to_be_allowed(event: InvalidateEvent) -> None:
    """By default neither everything=True nor an empty prefix clears anything."""
    store = CountingStore()
    with pytest.raises(PermanentError, match="allow_everything = true"):
        await sink_of(store).send_batch([event])
    assert store.cleared == []


async def test_everything_is_cleared_where_it_is_allowed() -> None:
    """With `allow_everything` an empty prefix and everything=True are the same."""
    store = CountingStore()
    await sink_of(store, allow_everything=True).send_batch([invalidate(everything=True), invalidate(prefixes=[""])])
    assert store.cleared == [Target("everything", "")]


async def test_two_events_of_one_id_are_both_cleared() -> None:
    """Neither stands for the other."""
    first = invalidate(keys="a")
    store = CountingStore()
    await sink_of(store).send_batch([first, first.model_copy(update={"keys": ("b",)})])
    assert store.cleared == [Target("keys", "a"), Target("keys", "b")]


async def test_a_refused_target_fails_the_events_that_named_it_and_no_other() -> None:
    """Coalescing does not blur who asked for what."""
    store = CountingStore(refuses={Target("keys", "bad"): PermanentError("no")})
    first, second, third = invalidate(keys=["bad"]), invalidate(keys=["good"]), invalidate(keys=["good", "bad"])
    with pytest.raises(PartialError) as caught:
        await sink_of(store).send_batch([first, second, third])
    assert set(caught.value.failures) == {first.id, third.id}


async def test_what_may_pass_is_tried_again_before_an_event_is_rejected() -> None:
    """An event with a passing and a lasting failure is retried: its passing one may yet succeed."""
    passing = TransientError("later")
    store = CountingStore(refuses={Target("keys", "bad"): PermanentError("no"), Target("keys", "slow"): passing})
    both, bad = invalidate(keys=["bad", "slow"]), invalidate(keys=["bad"])
    with pytest.raises(PartialError) as caught:
        await sink_of(store).send_batch([both, bad])
    assert caught.value.failures[both.id] is passing


async def test_a_store_that_is_away_fails_the_batch_as_a_whole() -> None:
    """The lane's breaker sees a failed call, not a partial success."""
    with pytest.raises(TransientError, match="away"):
        await sink_of(CountingStore(away=TransientError("away"))).send_batch(
            [invalidate(keys="a"), invalidate(keys="b")]
        )


async def test_a_store_that_is_away_does_not_make_a_forbidden_event_retryable() -> None:
    """What is refused for good is reported at once, though the rest has to be tried again."""
    forbidden, away = invalidate(everything=True), invalidate(keys="a")
    with pytest.raises(PartialError) as caught:
        await sink_of(CountingStore(away=TransientError("away"))).send_batch([forbidden, away])
    assert isinstance(caught.value.failures[forbidden.id], PermanentError)
    assert isinstance(caught.value.failures[away.id], TransientError)


def test_only_the_redis_store_needs_asyncio() -> None:
    """Under trio the memory and http stores run on trio itself."""
    redis = inspect_sink(Cache(store="redis", url=SecretStr("redis://localhost")))
    others = [inspect_sink(Cache(store="memory")), inspect_sink(Cache(store="http", nodes=["http://localhost"]))]
    assert redis.asyncio_only
    assert not any(other.asyncio_only for other in others)
    assert redis.batch
    assert redis.event_types == (InvalidateEvent,)


@pytest.mark.contract("F04")
def test_every_setting_is_annotated_and_described() -> None:
    """The annotations resolve at run time, and each carries its description."""
    hints = get_type_hints(Cache.__init__, include_extras=True)
    del hints["return"]
    assert set(hints) == set(Cache.__init__.__kwdefaults__) | {"store"}
    assert all(hint.__metadata__[-1].description for hint in hints.values())


def test_every_setting_is_on_the_documentations_page() -> None:
    """The table of settings names each of them, and no other."""
    table = PAGE.split("## Settings")[1].split("\n\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(Cache.__init__.__kwdefaults__) | {"store"}


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_page_load(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names sinks that can be made."""
    for name in ("REDIS_URL", "PURGE_TOKEN", "CLOUDFLARE_TOKEN"):
        monkeypatch.setenv(name, "redis://h" if name == "REDIS_URL" else "secret")
    path = tmp_path / "sidefx.toml"
    path.write_text(example.replace("myapp.caching:cache", "cashews:cache"), encoding="utf-8")
    assert SideEffects.from_toml(path).stats().sinks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"store": "redis"}, "needs url"),
        ({"store": "http"}, "needs nodes"),
        ({"store": "memory", "namespace": "shop:"}, "namespace is a setting of store = 'redis'"),
        (
            {"store": "redis", "url": SecretStr("redis://h"), "nodes": ["http://h"]},
            "nodes is a setting of store = 'http'",
        ),
        ({"store": "redis", "url": SecretStr("http://:hunter2@h")}, "url must be redis://"),
        ({"store": "redis", "url": SecretStr("redis://:hunter2#@h")}, "url must be redis://"),
        ({"store": "redis", "url": SecretStr("redis://:4711/hunter2@h:6379/0")}, "url must be redis://"),
        ({"store": "redis", "url": SecretStr("redis://app:4711#hunter2@h")}, "url must be redis://"),
        ({"store": "redis", "url": SecretStr("redis://:4711?a=hunter2@h")}, "url must be redis://"),
        ({"store": "redis", "url": SecretStr("unix://:a/hunter2@/run/redis.sock")}, "url must be redis://"),
        ({"store": "http", "nodes": ["varnish:6081"]}, "nodes: "),
        ({"store": "http", "nodes": ["http://user:hunter2@varnish"]}, "credentials belong in headers"),
        ({"store": "http", "nodes": ["http://v"], "tag_header": "x:y"}, "tag_header"),
        ({"store": "fastly", "service": "s"}, "needs service and token"),
        ({"store": "fastly", "service": "s/../x", "token": "hunter2"}, "service is to be the id"),
        ({"store": "fastly", "service": "s", "token": SecretStr("hunter2\n")}, "token is empty, or is not one word"),
        ({"store": "fastly", "service": "s", "token": "hunter2", "api": "https://u:hunter2@f"}, "api: give scheme"),
        ({"store": "cloudflare", "token": "hunter2"}, "needs zone and token"),
        ({"store": "cloudflare", "zone": "a?b", "token": "hunter2"}, "zone is to be the id"),
        ({"store": "cloudflare", "zone": "z", "token": "hunter2", "soft": True}, "soft is a setting of store"),
        ({"store": "memory", "token": "hunter2"}, "token is a setting of store = 'fastly' or 'cloudflare'"),
        ({"store": "http", "nodes": ["http://v"], "dialect": "nginx", "soft": True}, "for dialect = 'varnish'"),
        ({"store": "http", "nodes": ["http://v"], "dialect": "nginx", "bans": ["hosts"]}, "for dialect = 'varnish'"),
        ({"store": "http", "nodes": ["http://v"], "headers": {"X-Host": "a"}}, "X-Host is set by the sink itself"),
        ({"store": "redis", "url": "redis://h", "soft": True}, "soft is a setting of store = 'http' or 'fastly'"),
        ({"store": "http", "nodes": ["http://v"], "headers": {"A": SecretStr("hunter2\n")}}, "headers: the value of A"),
    ],
)
@pytest.mark.contract("F03")
def test_a_wrong_setting_is_a_clear_error_without_secrets(settings: dict[str, Any], message: str) -> None:
    """Missing, misplaced and malformed settings are refused when the sink is made, and no password is repeated."""
    with pytest.raises(ValueError, match=message) as caught:
        Cache(**settings)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "library", "module"),
    [
        ({"store": "redis", "url": SecretStr("redis://h")}, "redis", "sidefx_sinks.cache.redis"),
        ({"store": "http", "nodes": ["http://h"]}, "httpx", "sidefx_sinks.cache.purge"),
        ({"store": "fastly", "service": "s", "token": "t"}, "httpx", "sidefx_sinks.cache.fastly"),
        ({"store": "cloudflare", "zone": "z", "token": "t"}, "httpx", "sidefx_sinks.cache.cloudflare"),
    ],
)
@pytest.mark.contract("F05")
def test_a_missing_library_names_the_command_that_installs_it(
    settings: dict[str, Any], library: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the memory store works without it."""
    for name in (module, "sidefx_sinks._http", "sidefx_sinks.cache.api", "sidefx_sinks.cache.names"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"needs {library}.* pip install 'sidefx\[cache\]'"):
        Cache(**settings)
    Cache(store="memory")


# ---- the memory store


async def test_memory_forgets_keys_tags_and_prefixes() -> None:
    """What is named goes, and the rest stays."""
    async with memory() as (sink, cache):
        cache.set("key", 1)
        cache.set("tagged", 2, tags=["t", "other"])
        cache.set("p:1", 3)
        cache.set("kept", 4, tags=["other"])
        await sink.check()
        await sink.send_batch([invalidate(keys="key"), invalidate(tags="t", prefixes="p:")])
        assert [key for key in ("key", "tagged", "p:1", "kept") if key in cache] == ["kept"]
        assert cache.recently_dropped() == ["key", "tagged", "p:1"]
        await sink.send_batch([invalidate(keys="key"), invalidate(tags="t", prefixes="p:")])
        assert cache.stats().dropped == 3


async def test_memory_forgets_everything() -> None:
    """Everything is every entry, tags included."""
    async with memory() as (sink, cache):
        cache.set("a", 1, tags="t")
        cache.set("b", 2)
        await sink.send_batch([invalidate(everything=True)])
        assert len(cache) == 0
        assert cache.invalidate(tags=["t"]) == []


def test_a_name_stands_for_one_cache_of_the_process() -> None:
    """`named` answers the same cache to everyone, and a registered one where there is one."""
    name = f"test-{uuid4()}"
    mine = MemoryCache.register(name, MemoryCache(max_entries=3))
    assert MemoryCache.named(name) is mine
    assert MemoryCache.register(name, mine) is mine
    with pytest.raises(ValueError, match="exists already"):
        MemoryCache.register(name, MemoryCache())


def test_a_value_is_found_until_its_time_is_over() -> None:
    """`ttl` is in seconds from `set`; afterwards the entry counts as a miss and is gone."""
    now = [100.0]
    cache = MemoryCache(clock=lambda: now[0])
    cache.set("k", "v", ttl=5, tags=["t"])
    now[0] = 104.9
    assert cache.get("k") == "v"
    now[0] = 105.0
    assert "k" not in cache
    assert cache.get("k", "none") == "none"
    assert len(cache) == 0
    assert cache.invalidate(tags=["t"]) == []
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


def test_the_least_recently_used_makes_room() -> None:
    """A read counts as use; what leaves is counted, and its tags forget it."""
    cache = MemoryCache(max_entries=2)
    cache.set("a", 1, tags=["t"])
    cache.set("b", 2, tags=["t"])
    assert cache.get("a") == 1
    cache.set("c", 3)
    assert [key for key in "abc" if key in cache] == ["a", "c"]
    assert cache.stats().evictions == 1
    assert cache.invalidate(tags=["t"]) == ["a"]


def test_setting_a_key_again_replaces_its_tags() -> None:
    """An old tag no longer clears the new value."""
    cache = MemoryCache()
    cache.set("k", 1, tags=["old"])
    cache.set("k", 2, tags=["new"])
    assert cache.invalidate(tags=["old"]) == []
    assert cache.get("k") == 2
    assert cache.invalidate(tags=["new"]) == ["k"]


def test_a_string_is_one_name() -> None:
    """And not as many as it has letters."""
    cache = MemoryCache()
    for key in ("order:17", "order:18", "r"):
        cache.set(key, 1, tags=["orders"] if key == "order:18" else [])
    assert cache.invalidate(keys="order:17") == ["order:17"]
    assert cache.invalidate(tags="orders") == ["order:18"]
    assert cache.invalidate(prefixes="or") == []
    assert "r" in cache


def test_delete_says_whether_there_was_something() -> None:
    """And counts it once."""
    cache = MemoryCache()
    cache.set("k", None)
    assert cache.delete("k") is True
    assert cache.delete("k") is False
    assert cache.stats().dropped == 1


def test_a_cache_of_no_entries_is_refused() -> None:
    """A bound below one is a mistake, not an empty cache."""
    with pytest.raises(ValueError, match="at least 1"):
        MemoryCache(max_entries=0)


def test_threads_leave_entries_and_tags_in_step() -> None:
    """After many threads have written, read and cleared, every entry is under its tag and the counts add up."""
    cache = MemoryCache(max_entries=50)

    def use(thread: int) -> int:
        for turn in range(400):
            key = f"k{(thread * 7 + turn) % 80}"
            cache.set(key, turn, tags=[f"t{turn % 5}"])
            cache.get(key)
            if turn % 10 == 0:
                cache.invalidate(tags=[f"t{turn % 5}"])
        return 400

    with ThreadPoolExecutor(8) as pool:
        reads = sum(pool.map(use, range(8)))
    stats = cache.stats()
    assert stats.hits + stats.misses == reads
    assert stats.entries <= 50
    assert len(cache.invalidate(tags=[f"t{number}" for number in range(5)])) == stats.entries
    assert len(cache) == 0
