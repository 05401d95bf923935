"""Several nodes of the http store of the sink `cache`: what became of each, and who is asked again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest

from sidefx import PartialError, PermanentError, RetryOptions, SideEffects, SinkOptions, TransientError, invalidate
from sidefx_sinks.cache import Cache, fan_out
from sidefx_sinks.cache.fan_out import FanOut
from sidefx_sinks.cache.store import Target
from tests.sinks.nodes import Node, free_port, running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytestmark = pytest.mark.anyio

SHOP = "https://shop.example"


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Three nodes."""
    with running() as a, running() as b, running() as c:
        yield [a, b, c]


def purging(nodes: list[Node], **settings: Any) -> Cache:
    """A sink that purges these nodes."""
    return Cache(store="http", nodes=[node.url for node in nodes], **settings)


async def test_a_retry_goes_only_to_the_node_that_failed(nodes: list[Node]) -> None:
    """The others took the event the first time, and are left in peace until the next event."""
    event = invalidate(urls=f"{SHOP}/a", tags="t")
    nodes[1].statuses["/a"] = 503
    async with purging(nodes) as sink:
        for attempt in (1, 2):
            with pytest.raises(TransientError, match=r"1 of 3 nodes failed: PURGE 127\.0\.0\.1") as caught:
                await sink.send_batch([event])
            assert str(nodes[1].server_port) in str(caught.value)
            assert [len(node.seen) for node in nodes] == [2, 2 * attempt, 2]
        nodes[1].statuses.clear()
        await sink.send_batch([event])
        assert [len(node.seen) for node in nodes] == [2, 6, 2]
        await sink.send_batch([event])  # a repetition of what succeeded everywhere is to reach everyone
        assert [len(node.seen) for node in nodes] == [4, 8, 4]


async def test_another_event_that_names_the_same_goes_to_every_node(nodes: list[Node]) -> None:
    """It was written to since: what a node has taken for one event says nothing of the next."""
    first, second = invalidate(urls=f"{SHOP}/a"), invalidate(urls=f"{SHOP}/a")
    nodes[1].statuses["/a"] = 503
    async with purging(nodes) as sink:
        with pytest.raises(TransientError):
            await sink.send_batch([first])
        nodes[1].statuses.clear()
        await sink.send_batch([first, second])
    assert [len(node.seen) for node in nodes] == [2, 2, 2]


async def test_each_event_has_the_nodes_that_it_is_missing(nodes: list[Node]) -> None:
    """Two events of one batch that fail at different nodes are each retried at their own."""
    a, b = invalidate(urls=f"{SHOP}/a"), invalidate(urls=f"{SHOP}/b")
    nodes[0].statuses["/a"] = nodes[2].statuses["/b"] = 500
    async with purging(nodes) as sink:
        with pytest.raises(TransientError):
            await sink.send_batch([a, b])
        for node in nodes:
            node.statuses.clear()
            node.seen.clear()
        await sink.send_batch([a, b])
    assert [node.targets() for node in nodes] == [["/a"], [], ["/b"]]


async def test_a_node_that_hangs_keeps_the_answers_of_the_others(nodes: list[Node]) -> None:
    """The lane's timeout cuts the attempt off, and the next one goes to the node alone that did not answer."""
    event = invalidate(urls=f"{SHOP}/a")
    nodes[0].release = threading.Event()
    try:
        async with purging(nodes) as sink:
            async with anyio.create_task_group() as group:
                group.start_soon(sink.send_batch, [event])
                await until(lambda: [len(node.seen) for node in nodes] == [1, 1, 1])
                await until(lambda: len(sink._store._fan_out._taken.get(event.id, ())) == 2)  # type: ignore[attr-defined]
                group.cancel_scope.cancel()
            nodes[0].release.set()
            await sink.send_batch([event])
    finally:
        nodes[0].release.set()
    assert [len(node.seen) for node in nodes] == [2, 1, 1]


async def test_a_refusal_of_one_node_is_told_once_the_others_have_taken_it(nodes: list[Node]) -> None:
    """While a node may yet take it the event is retried; then it is rejected, and the error names the node."""
    event = invalidate(urls=f"{SHOP}/a")
    nodes[0].statuses["/a"], nodes[2].statuses["/a"] = 403, 503
    nodes[2].headers["Retry-After"] = "7"
    async with purging(nodes) as sink:
        with pytest.raises(TransientError, match=r"2 of 3 nodes failed: .* 403 .*; .* 503 ") as caught:
            await sink.send_batch([event])
        assert caught.value.retry_after == 7.0
        nodes[2].statuses.clear()
        with pytest.raises(PermanentError, match=rf"1 of 3 nodes failed: PURGE {nodes[0].url[7:]} answered 403"):
            await sink.send_batch([event])
    assert [len(node.seen) for node in nodes] == [2, 1, 2]


async def test_in_a_lane_every_node_has_it_and_the_living_ones_once(nodes: list[Node]) -> None:
    """Delivered after retries: the node that was away hears of it in the end, the others not again."""
    nodes[1].statuses["/a"] = 503
    options = SinkOptions(retry=RetryOptions(attempts=50, initial=0.01, max=0.02))
    async with SideEffects({"cdn": purging(nodes)}, {"cdn": options}) as fx:
        await fx.emit(invalidate(urls=f"{SHOP}/a"))
        await until(lambda: len(nodes[1].seen) >= 3)
        nodes[1].statuses.clear()
        await fx.flush(10)
        assert fx.stats().sinks["cdn"].delivered == 1
    assert [len(node.seen) for node in nodes if node is not nodes[1]] == [1, 1]


async def test_a_name_that_no_node_can_take_is_one_error_and_no_nodes_fault(nodes: list[Node]) -> None:
    """It is found before any node is asked, and the rest of the event is cleared."""
    bad = invalidate(tags=["fine", "not fine"])
    async with purging(nodes) as sink:
        with pytest.raises(PermanentError, match="a tag cannot be purged") as caught:
            await sink.send_batch([bad])
        assert "nodes" not in str(caught.value)
        with pytest.raises(PartialError):
            await sink.send_batch([bad, invalidate(tags="t")])
    assert [[seen.xkey for seen in node.seen] for node in nodes] == [["fine", "fine t"]] * 3


async def test_a_node_that_is_listed_twice_is_one(nodes: list[Node]) -> None:
    """The same base URL, with and without a slash."""
    url = nodes[0].url
    async with Cache(store="http", nodes=[url, f"{url}/"]) as sink:
        await sink.send_batch([invalidate(urls=f"{SHOP}/a")])
    assert nodes[0].targets() == ["/a"]


async def test_what_a_node_has_taken_is_remembered_by_target() -> None:
    """A window asks for the targets of one event in two steps: the first says nothing of the second."""
    asked: list[tuple[str, str]] = []

    async def clear_node(node: str, targets: Sequence[Target]) -> Mapping[Target, Exception]:
        asked.extend((node, target.name) for target in targets)
        return {target: PermanentError("no") for target in targets if (node, target.name) == ("b", "at once")}

    fan = FanOut(["a", "b"])
    event = uuid4()
    assert await fan.clear({Target("tags", "at once"): [event]}, clear_node)
    assert not await fan.clear({Target("tags", "held"): [event]}, clear_node)
    assert sorted(asked) == [("a", "at once"), ("a", "held"), ("b", "at once"), ("b", "held")]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest event is forgotten, which costs its retry a purge too many."""
    monkeypatch.setattr(fan_out, "_MAX_REMEMBERED", 2)
    asked: list[str] = []

    async def clear_node(node: str, targets: Sequence[Target]) -> Mapping[Target, Exception]:
        asked.append(node)
        return dict.fromkeys(targets, TransientError("away")) if node == "dead" else {}

    ids = [uuid4() for _ in range(3)]
    target = Target("urls", "/")
    fan = FanOut(["live", "dead"])
    for event_id in ids:
        await fan.clear({target: [event_id]}, clear_node)
    asked.clear()
    for event_id in reversed(ids):
        await fan.clear({target: [event_id]}, clear_node)
    assert asked.count("live") == 1
    assert asked.count("dead") == 3
    assert len(fan._taken) == 2


async def test_many_nodes_away_make_a_short_error() -> None:
    """Three are quoted, the rest counted."""
    nodes = [f"http://127.0.0.1:{free_port()}" for _ in range(5)]
    async with Cache(store="http", nodes=nodes) as sink:
        with pytest.raises(TransientError, match=r"5 of 5 nodes failed: .*and 2 more") as caught:
            await sink.send_batch([invalidate(urls="/a")])
    assert str(caught.value).count("127.0.0.1") == 3
