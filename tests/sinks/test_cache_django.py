"""Beside Django's cache: its keys are cleared through its API, and in the same Redis."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.conf import UserSettingsHolder, global_settings, settings
from django.core.cache import caches
from django.test import override_settings
from pydantic import SecretStr

from sidefx import MissingExtraError, PartialError, PermanentError, SideEffects, invalidate
from sidefx.testing import check_sink
from sidefx_sinks.cache import Cache
from sidefx_sinks.cache.django import DjangoCache

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    """Settings for the test alone, unless another one of the process has made some."""
    before = settings._wrapped
    if not settings.configured:
        settings._wrapped = UserSettingsHolder(global_settings)
    yield
    settings._wrapped = before


@pytest.fixture
def prefix() -> str:
    """The KEY_PREFIX of the test's own."""
    return f"sidefx-test-{uuid4().hex}"


@pytest.fixture(params=["locmem", "filebased", "redis"])
def django(request: pytest.FixtureRequest, tmp_path: Any, prefix: str) -> Iterator[str]:
    """A cache in CACHES, by its alias."""
    backends = {"locmem": ("locmem.LocMemCache", prefix), "filebased": ("filebased.FileBasedCache", str(tmp_path))}
    if request.param == "redis":
        backends["redis"] = ("redis.RedisCache", request.getfixturevalue("redis_url"))
    backend, location = backends[request.param]
    pages = {
        "BACKEND": f"django.core.cache.backends.{backend}",
        "LOCATION": location,
        "KEY_PREFIX": prefix,
        "VERSION": 3,
    }
    with override_settings(CACHES={"pages": pages}):
        yield "pages"
        caches["pages"].delete_many(["a", "b", "c"])
        caches["pages"].close()


def present(*keys: str, version: int | None = None) -> list[str]:
    """Which of the keys Django finds."""
    return [key for key in keys if caches["pages"].get(key, version=version) is not None]


async def test_keys_are_deleted_as_django_names_them(django: str) -> None:
    """With its prefix, version and key function, whatever the backend; sent again they are no error."""
    cache = caches[django]
    for key in ("a", "b", "c"):
        cache.set(key, 1)
    sink = DjangoCache(alias=django)
    async with SideEffects({"cache": sink}) as fx:
        for _ in range(2):
            await fx.emit(invalidate(keys=["a", "b"], tags="ignored here"))
            await fx.flush(10)
        assert fx.stats().sinks["cache"].delivered == 2
    assert present("a", "b", "c") == ["c"]


async def test_another_version_is_cleared_where_it_is_set(django: str) -> None:
    """Of the keys of that version only."""
    cache = caches[django]
    cache.set("a", 1)
    cache.set("a", 1, version=7)
    DjangoCache(alias=django, version=7).send_batch([invalidate(keys="a")])
    assert (present("a"), present("a", version=7)) == (["a"], [])


async def test_it_keeps_the_contract(django: str) -> None:
    """The suite of every sink, in worker threads."""
    await check_sink(lambda: DjangoCache(alias=django), [invalidate(keys="a"), invalidate(keys=["b", "c"])])


def test_in_the_same_redis_the_redis_store_clears_djangos_keys(redis_url: str, prefix: str) -> None:
    """Its namespace is Django's `PREFIX:VERSION:`; prefixes work as well, and other prefixes stay."""
    import asyncio

    pages = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": redis_url,
        "KEY_PREFIX": prefix,
        "VERSION": 3,
    }

    async def clear() -> None:
        async with Cache(store="redis", url=SecretStr(redis_url), namespace=f"{prefix}:3:") as sink:
            await sink.send_batch([invalidate(keys="a", prefixes="p:")])

    with override_settings(CACHES={"pages": pages}):
        for key in ("a", "p:1", "p:2", "b"):
            caches["pages"].set(key, 1)
        asyncio.run(clear())
        assert present("a", "p:1", "p:2", "b") == ["b"]
        caches["pages"].delete("b")


def test_everything_needs_to_be_allowed(tmp_path: Any) -> None:
    """As of every cache; it is Django's `clear()`."""
    pages = {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": str(tmp_path)}
    with override_settings(CACHES={"pages": pages}):
        caches["pages"].set("a", 1)
        with pytest.raises(PermanentError, match="allow_everything = true"):
            DjangoCache(alias="pages").send_batch([invalidate(everything=True)])
        assert present("a") == ["a"]
        DjangoCache(alias="pages", allow_everything=True).send_batch([invalidate(everything=True)])
        assert present("a") == []


def test_tags_are_not_djangos() -> None:
    """The error says what it clears."""
    with pytest.raises(PermanentError, match="a django store clears keys, everything; the event names only tags"):
        DjangoCache().send_batch([invalidate(tags="t")])


def test_a_key_that_the_backend_cannot_have_fails_its_event_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As memcached refuses blanks: the others are deleted, and the error does not repeat the key."""
    from django.core.cache.backends.base import InvalidCacheKey
    from django.core.cache.backends.locmem import LocMemCache

    delete_many = LocMemCache.delete_many

    def strict(self: LocMemCache, keys: Any, version: int | None = None) -> None:
        if any(" " in key for key in keys):
            raise InvalidCacheKey(keys)
        delete_many(self, keys, version)

    monkeypatch.setattr(LocMemCache, "delete_many", strict)
    pages = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "strict"}
    with override_settings(CACHES={"pages": pages}):
        caches["pages"].set("a", 1)
        bad = invalidate(keys="in two")
        with pytest.raises(PartialError) as caught:
            DjangoCache(alias="pages").send_batch([bad, invalidate(keys="a")])
        assert list(caught.value.failures) == [bad.id]
        assert "in two" not in str(caught.value.failures[bad.id])
        assert present("a") == []


def test_without_django_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django is the application's, and no extra of sidefx."""
    monkeypatch.setitem(sys.modules, "django.core.cache", None)
    with pytest.raises(MissingExtraError, match="pip install django"):
        DjangoCache()
