"""The http store of the sink `cache` against a real Varnish and a real nginx."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidefx import PermanentError, invalidate
from sidefx_sinks.cache import Cache
from tests.sinks.nodes import Node, running
from tests.sinks.varnish import PURGING, Proxy, nginx, varnish
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SHOP = "https://shop.example"


@pytest.fixture
def node() -> Iterator[Node]:
    """The origin: its pages are tagged for xkey and for bans."""
    with running() as one:
        one.headers |= {"xkey": "orders user:1", "X-Cache-Tags": "orders,user:1"}
        yield one


@pytest.fixture
def varnish_proxy(tmp_path: Path, node: Node) -> Iterator[Proxy]:
    """A Varnish of the test's own."""
    with varnish(node, tmp_path) as proxy:
        yield proxy


@pytest.fixture
def nginx_proxy(tmp_path: Path, node: Node) -> Iterator[Proxy]:
    """An nginx of the test's own."""
    with nginx(node, tmp_path) as proxy:
        yield proxy


def purging(*nodes: str, **settings: Any) -> Cache:
    """A sink that purges these nodes."""
    return Cache(store="http", nodes=nodes, **settings)


def banning(proxy: Proxy, **settings: Any) -> Cache:
    """A sink that sends bans for all that there is one for."""
    return purging(proxy.url, bans=["tags", "prefixes", "hosts", "everything"], allow_everything=True, **settings)


def fetched(proxy: Proxy, *pages: tuple[str, str]) -> set[tuple[str, str]]:
    """Which of these (host, path) the cache has to fetch from the origin, for it holds them no more."""
    missing = set()
    for host, path in pages:
        before = len(proxy.origin.seen)
        proxy.get(path, host)
        if len(proxy.origin.seen) > before:
            missing.add((host, path))
    return missing


async def test_varnish_forgets_urls_and_tags(varnish_proxy: Proxy) -> None:
    """What was purged by URL or by xkey is fetched from the origin again; another host's page stays."""
    proxy, origin = varnish_proxy, varnish_proxy.origin
    async with purging(proxy.url) as sink:
        await sink.check()
        for _ in range(2):
            proxy.get("/a?b=c")
            proxy.get("/a?b=c", host="other.example")
        assert len(origin.seen) == 2
        await sink.send_batch([invalidate(urls=f"{SHOP}/a?b=c")])
        proxy.get("/a?b=c", host="other.example")
        assert len(origin.seen) == 2
        proxy.get("/a?b=c")
        assert len(origin.seen) == 3
        await sink.send_batch([invalidate(tags=["user:1", "unknown"])])
        proxy.get("/a?b=c", host="other.example")
        proxy.get("/a?b=c")
        assert len(origin.seen) == 5


async def test_varnish_takes_the_longest_header_that_is_sent(varnish_proxy: Proxy) -> None:
    """The bound of the tag header lies below Varnish's own."""
    async with purging(varnish_proxy.url) as sink:
        await sink.send_batch([invalidate(tags=["x" * 4_000])])


async def test_nginx_forgets_urls(nginx_proxy: Proxy) -> None:
    """What was purged is fetched from the origin again, and what was not cached is no error."""
    proxy, origin = nginx_proxy, nginx_proxy.origin
    async with purging(f"{proxy.url}/purge", dialect="nginx") as sink:
        await sink.check()
        for _ in range(2):
            proxy.get("/a?b=c")
            proxy.get("/kept")
        assert len(origin.seen) == 2
        await sink.send_batch([invalidate(urls=[f"{SHOP}/a?b=c", f"{SHOP}/never-cached"])])
        proxy.get("/kept")
        assert len(origin.seen) == 2
        proxy.get("/a?b=c")
        assert len(origin.seen) == 3


# ---- bans

SHOP_A, SHOP_B, SHOP_AB = ("shop.example", "/a"), ("shop.example", "/b?x=1"), ("shop.example", "/ab")
OTHER_A, EVIL = ("other.example", "/a"), ("shop-example", "/a")
PAGES = (SHOP_A, SHOP_B, SHOP_AB, OTHER_A, EVIL)


BANS: list[tuple[dict[str, Any], set[tuple[str, str]]]] = [
    ({"hosts": "shop.example"}, {SHOP_A, SHOP_B, SHOP_AB}),
    ({"hosts": ["Other.Example", "shop-example"]}, {OTHER_A, EVIL}),
    ({"prefixes": "https://shop.example/a"}, {SHOP_A, SHOP_AB}),
    ({"prefixes": "/a"}, {SHOP_A, SHOP_AB, OTHER_A, EVIL}),
    ({"prefixes": ["https://shop.example/b?x", "https://other.example/"]}, {SHOP_B, OTHER_A}),
    ({"prefixes": "https://shop.example/.*"}, set()),
    ({"tags": "user:1"}, set(PAGES)),
    ({"tags": ["none", "user:1"]}, set(PAGES)),
    ({"tags": ["user:", "order", "user:11", "orders.user"]}, set()),
    ({"everything": True}, set(PAGES)),
]


async def test_a_ban_clears_what_it_names_and_nothing_else(varnish_proxy: Proxy) -> None:
    """By host, prefix, tag or altogether; dots, stars and parts of tags are taken literally."""
    assert fetched(varnish_proxy, *PAGES) == set(PAGES)
    async with banning(varnish_proxy) as sink:
        await sink.check()
        for names, gone in BANS:
            assert fetched(varnish_proxy, *PAGES) == set(), names
            await sink.send_batch([invalidate(**names)])
            assert fetched(varnish_proxy, *PAGES) == gone, names


async def test_nothing_in_a_name_means_something_to_the_ban(varnish_proxy: Proxy) -> None:
    """Quotes, brackets and operators of ban expressions neither widen a ban nor break it; blanks are refused."""
    odd = """/q"'()[]{}|\\^$&&!~#;:@,+*?=<>`%20"""
    fetched(varnish_proxy, SHOP_A, ("shop.example", odd))
    async with banning(varnish_proxy) as sink:
        await sink.send_batch([invalidate(prefixes=f"{SHOP}{odd.partition('#')[0]}", tags=[odd.replace(",", "")])])
        assert fetched(varnish_proxy, SHOP_A, ("shop.example", odd)) == {("shop.example", odd)}
        for bad in ({"prefixes": "/a && req.url"}, {"tags": "a && b"}, {"hosts": "a b"}, {"prefixes": "order:"}):
            with pytest.raises(PermanentError, match="cannot be purged"):
                await sink.send_batch([invalidate(**bad)])
        assert fetched(varnish_proxy, SHOP_A) == set()


async def test_the_longest_bans_are_taken(varnish_proxy: Proxy) -> None:
    """A thousand tags and hosts are several bans, of which each lies below Varnish's own bounds."""
    async with banning(varnish_proxy) as sink:
        await sink.send_batch(
            [
                invalidate(tags=[f"product:{number:06}" for number in range(1_000)]),
                invalidate(hosts=[f"shop-{number:06}.example" for number in range(1_000)]),
                invalidate(prefixes="/" + "." * 899, tags="." * 900),
            ]
        )


# ---- soft purges


@pytest.mark.parametrize("names", [{"urls": f"{SHOP}/a"}, {"tags": "user:1"}])
async def test_what_is_purged_softly_is_served_once_more_while_it_is_fetched(
    varnish_proxy: Proxy, names: dict[str, Any]
) -> None:
    """The next reader gets the old page at once and the origin is asked for the new one; a hard purge makes it wait."""
    assert varnish_proxy.get("/a") == "1"
    async with purging(varnish_proxy.url, soft=True) as sink:
        await sink.send_batch([invalidate(**names)])
        assert varnish_proxy.get("/a") == "1"
        await until(lambda: len(varnish_proxy.origin.seen) == 2)
        await until(lambda: varnish_proxy.get("/a") == "2")
        await sink.send_batch([invalidate(urls=f"{SHOP}/never-cached", tags="unknown")])
    async with purging(varnish_proxy.url) as sink:
        await sink.send_batch([invalidate(**names)])
        assert varnish_proxy.get("/a") == "3"


def test_the_page_shows_the_vcl_that_is_tested() -> None:
    """Whoever copies it from the page has what these tests ran."""
    page = Path(__file__, "../../../docs/sinks/cache.md").resolve().read_text(encoding="utf-8")
    assert PURGING.strip() in page
