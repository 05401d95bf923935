"""The http store of the sink `cache`: against a server that records, and against real Varnish and nginx."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import SecretStr

from sidefx import PartialError, PermanentError, TransientError, invalidate
from sidefx_sinks.cache import Cache
from tests.sinks.nodes import Node, Seen, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SHOP = "https://shop.example"


@pytest.fixture
def node() -> Iterator[Node]:
    """One node."""
    with running() as one:
        yield one


def purging(*nodes: str, **settings: Any) -> Cache:
    """A sink that purges these nodes."""
    return Cache(store="http", nodes=nodes, **settings)


# ---- the requests


async def test_a_url_becomes_a_purge_of_its_path_with_its_host(node: Node) -> None:
    """Path and query go as they are, the host in its header, the fragment nowhere; a path alone has the node's host."""
    urls = [f"{SHOP}/products/1?size=m#reviews", "http://Shop.example:8080", f"{SHOP}:443/a%20b", "/bare?x=%2F"]
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(urls=urls)])
    own = node.url.removeprefix("http://")
    assert node.seen == [
        Seen("PURGE", "/products/1?size=m", "shop.example", None, None),
        Seen("PURGE", "/", "shop.example:8080", None, None),
        Seen("PURGE", "/a%20b", "shop.example", None, None),
        Seen("PURGE", "/bare?x=%2F", own, None, None),
    ]


async def test_tags_travel_together_in_one_header(node: Node) -> None:
    """The tags of a batch are one request, each once, separated by spaces as xkey has it."""
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(tags=["orders", "user:1"]), invalidate(tags=["orders", "user:2"])])
    assert [(seen.target, seen.xkey) for seen in node.seen] == [("/", "orders user:1 user:2")]


async def test_a_header_of_tags_is_bounded(node: Node) -> None:
    """More tags than a header line can carry become several requests, and none is left out."""
    tags = [f"product:{number:06}" for number in range(1_000)]
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(tags=tags)])
    headers = [seen.xkey or "" for seen in node.seen]
    assert [tag for header in headers for tag in header.split(" ")] == tags
    assert 1 < len(headers) < 10
    assert max(map(len, headers)) <= 4_000


async def test_every_node_is_purged(node: Node) -> None:
    """Each node hears of each thing once, however many events name it, and again when the batch is sent again."""
    batch = [invalidate(urls=[f"{SHOP}/a"], tags="t"), invalidate(urls=[f"{SHOP}/a"])]
    with running() as other:
        async with purging(node.url, f"{other.url}/") as sink:
            await sink.send_batch(batch)
            assert sorted(node.targets()) == sorted(other.targets()) == ["/", "/a"]
            await sink.send_batch(batch)
            assert len(node.seen) == len(other.seen) == 4


async def test_a_nodes_path_and_headers_are_used(node: Node) -> None:
    """A node may have a path, as nginx's separate purge location does; configured headers go with every request."""
    async with purging(f"{node.url}/purge", headers={"Authorization": SecretStr("Bearer hunter2")}) as sink:
        await sink.send_batch([invalidate(urls=f"{SHOP}/a")])
    assert node.seen == [Seen("PURGE", "/purge/a", "shop.example", None, "Bearer hunter2")]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("tags", ["a\r\nX-Evil: 1", "in two", "a,b", "tab\t", "größe", "", "x" * 4_001, "\x00"]),
        (
            "urls",
            [
                f"{SHOP}/a\r\nX-Evil: 1",
                f"{SHOP}/in two",
                "https://shop.example\\@evil/",
                "https://user:password@shop.example/",
                "//shop.example/",
                "shop.example/a",
                "ftp://shop.example/a",
                "https://",
                "https://[::1",
                "https://shop.example:port/",
                f"{SHOP}/größe",
            ],
        ),
    ],
)
async def test_what_could_break_out_of_a_request_is_refused(node: Node, kind: str, values: list[str]) -> None:
    """No line break, blank or odd host reaches a node; each is a permanent error that does not quote it."""
    async with purging(node.url) as sink:
        for value in values:
            with pytest.raises(PermanentError) as caught:
                await sink.send_batch([invalidate(**{kind: [value]})])
            assert not value or value not in "".join(traceback.format_exception(caught.value))
    assert node.seen == []


@pytest.mark.parametrize(
    "path", ["/../admin", "/a/../../admin", "/.", "/a/..?b", "/%2e%2e/admin", "/..%2fadmin", "/%2E%2E", "/a/.."]
)
async def test_no_path_leaves_the_nodes_own(node: Node, path: str) -> None:
    """One that the request would change, or the node once it has decoded it, is refused; dots elsewhere are not."""
    async with purging(f"{node.url}/purge") as sink:
        for url in (path, SHOP + path):
            with pytest.raises(PermanentError, match="percent-encoded"):
                await sink.send_batch([invalidate(urls=url)])
        await sink.send_batch([invalidate(urls=["/.well-known/a..b?c=/../d"])])
    assert node.targets() == ["/purge/.well-known/a..b?c=/../d"]


async def test_an_empty_query_is_kept(node: Node) -> None:
    """It is part of the cache's key."""
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(urls=[f"{SHOP}/x?", f"{SHOP}/x", "/y?#top"])])
    assert node.targets() == ["/x?", "/x", "/y?"]


async def test_one_bad_tag_fails_its_event_alone(node: Node) -> None:
    """The other tags of the batch are purged."""
    bad = invalidate(tags=["fine", "not fine"])
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, invalidate(tags="good")])
    assert list(caught.value.failures) == [bad.id]
    assert [seen.xkey for seen in node.seen] == ["fine good"]


async def test_nginx_takes_no_tags_and_no_star(node: Node) -> None:
    """A star at a URL's end, which nginx reads as "all that begins so", is not sent; tags are what it lacks."""
    async with purging(node.url, dialect="nginx") as sink:
        for url in (f"{SHOP}/*", "/a?b*", f"{SHOP}/%2a", "/a*?", f"{SHOP}/a*?"):
            with pytest.raises(PermanentError, match=r"ends in \*"):
                await sink.send_batch([invalidate(urls=url)])
        with pytest.raises(PermanentError, match="a http store clears urls; the event names only tags"):
            await sink.send_batch([invalidate(tags="t")])
    assert node.seen == []


# ---- the answers


@pytest.mark.parametrize(("dialect", "status"), [("varnish", 404), ("varnish", 204), ("nginx", 404), ("nginx", 412)])
async def test_what_is_not_cached_counts_as_cleared(node: Node, dialect: Any, status: int) -> None:
    """404 is what a cache answers that has nothing there, and 412 what ngx_cache_purge does."""
    node.statuses["/a"] = status
    async with purging(node.url, dialect=dialect) as sink:
        await sink.send_batch([invalidate(urls=f"{SHOP}/a")])
    assert node.targets() == ["/a"]


@pytest.mark.parametrize("status", [400, 403, 405, 412, 501])
async def test_a_refusal_is_permanent_and_the_rest_goes_on(node: Node, status: int) -> None:
    """One URL that is refused for good fails its event, and the next is purged."""
    node.statuses["/a"] = status
    bad = invalidate(urls=f"{SHOP}/a")
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, invalidate(urls=f"{SHOP}/b")])
    assert list(caught.value.failures) == [bad.id]
    assert isinstance(caught.value.failures[bad.id], PermanentError)
    assert str(status) in str(caught.value.failures[bad.id])
    assert node.targets() == ["/a", "/b"]


async def test_one_url_that_fails_does_not_take_the_others_along(node: Node) -> None:
    """It may be its own fault; two in a row are the node's, and the rest is left for later."""
    bad, other, good = (invalidate(urls=path) for path in ("/bad", "/other", "/good"))
    node.statuses["/bad"] = 503
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, other, good])
        assert list(caught.value.failures) == [bad.id]
        assert isinstance(caught.value.failures[bad.id], TransientError)
        assert node.targets() == ["/bad", "/other", "/good"]
        node.statuses["/other"] = 503
        with pytest.raises(TransientError):
            await sink.send_batch([bad, other, good])
    assert node.targets()[3:] == ["/bad", "/other"]


async def test_a_node_that_asks_for_a_pause_gets_one(node: Node) -> None:
    """After a 503 that node is left alone, its `Retry-After` is handed on, and what it had taken is not sent again."""
    node.statuses["/b"] = 503
    node.headers["Retry-After"] = "7"
    events = [invalidate(urls=f"{SHOP}/{name}") for name in "abc"]
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
    assert list(caught.value.failures) == [events[1].id, events[2].id]
    assert [error.retry_after for error in caught.value.failures.values()] == [7.0, 7.0]  # type: ignore[attr-defined]
    assert node.targets() == ["/a", "/b"]


async def test_a_node_that_is_down_does_not_keep_the_others_waiting(node: Node) -> None:
    """The living node is purged, and the batch is to be tried again, with the dead one named."""
    dead = free_port()
    async with purging(f"http://127.0.0.1:{dead}", node.url) as sink:
        with pytest.raises(TransientError, match=f"127.0.0.1:{dead}"):
            await sink.send_batch([invalidate(urls=f"{SHOP}/a"), invalidate(tags="t")])
    assert sorted(node.targets()) == ["/", "/a"]


async def test_a_node_that_hangs_does_not_keep_the_others_waiting(node: Node) -> None:
    """While one node holds its answer back the other has had everything; cancelling ends the wait."""
    node.release = threading.Event()
    with running() as other, anyio.fail_after(20):
        try:
            async with purging(node.url, other.url) as sink, anyio.create_task_group() as group:
                group.start_soon(sink.send_batch, [invalidate(urls=[f"{SHOP}/a", f"{SHOP}/b"])])
                while not (other.targets() == ["/a", "/b"] and node.targets() == ["/a"]):
                    await checkpoint()
                group.cancel_scope.cancel()
        finally:
            node.release.set()
    assert node.targets() == ["/a"]


@pytest.mark.contract("F03")
async def test_check_says_what_is_wrong(node: Node) -> None:
    """Silent where the node takes PURGE; one line where it forbids it or is away, never with a secret."""
    headers = {"Authorization": SecretStr("Bearer hunter2")}
    async with purging(node.url, headers=headers) as sink:
        await sink.check()
        node.statuses["/.sidefx-check"] = 403
        with pytest.raises(PermanentError, match="403") as caught:
            await sink.check()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + repr(sink)
        assert "\n" not in str(caught.value)
    async with purging(f"http://127.0.0.1:{free_port()}", headers=headers) as sink:
        with pytest.raises(TransientError, match=r"127\.0\.0\.1"):
            await sink.check()


async def test_a_sink_that_was_not_opened_says_so(node: Node) -> None:
    """A mistake of the caller is no error of a node."""
    with pytest.raises(RuntimeError, match="async with"):
        await purging(node.url).check()
