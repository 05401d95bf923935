"""The migration page as a whole: its code runs, and each of its sentences has a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.docs import shop
from tests.docs.page import PAGE, Block, blocks, claims, pairs, run

# Starlette's test client asks for another client library than the one that the project uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`"),
    pytest.mark.filterwarnings("ignore:Failing to pass a value to the 'type_params'"),  # fastapi-events, on Python 3.13
]

TESTS = {
    "From BackgroundTasks": "test_migration_background_*.py",
    "From fastapi-events": "test_migration_fastapi_events.py",
    "From Litestar": "test_migration_litestar.py",
    "From Next.js": "test_migration_nextjs.py",
    "From a task queue": "test_migration_queues.py",
}
ORDER = ("POST", "/orders?sku=tea&email=ann@example.org")
RECEIPT = ("receipt", "ann@example.org", 1)
RECOUNT = ("recount", "tea")


def done_by(block: Block, requests: Sequence[tuple[str, str]], **headers: str) -> list[tuple[Any, ...]]:
    """What the shop was asked to do by the block's app; effects have run when its lifespan has ended."""
    from starlette.testclient import TestClient

    shop.begin()
    with run(block) as module:
        with TestClient(module.app, headers=headers) as client:
            for method, url in requests:
                client.request(method, url).raise_for_status()
        return sorted(shop.done)


@pytest.mark.parametrize(
    ("pair", "requests", "done"),
    [
        (0, [ORDER, ("DELETE", "/orders/7")], [RECEIPT, ("recount", "sku of 7"), RECOUNT]),
        (1, [ORDER], [("count", "tea", "open")]),
        (2, [ORDER], [RECEIPT, RECOUNT]),
        (3, [ORDER], [("access", "POST", "/orders"), RECEIPT, RECOUNT]),
    ],
    ids=["BackgroundTasks", "a session", "fastapi-events", "Litestar"],
)
def test_before_and_after(pair: int, requests: list[tuple[str, str]], done: list[tuple[Any, ...]]) -> None:
    """The two apps of each pair do the same for the same requests."""
    before, after = pairs()[pair]
    assert done_by(before, requests) == done
    assert done_by(after, requests) == done


def test_after_next_js() -> None:
    """What replaces the route of Next.js, which cannot run here, is told of the headers and cookies by `request()`."""
    [block] = [block for block in blocks() if block.section == "From Next.js" and block.language == "python"]
    headers = {"User-Agent": "a browser", "Cookie": "session=s-1"}
    assert done_by(block, [ORDER], **headers) == [("access", 1, "a browser", "s-1")]


def test_a_closed_session() -> None:
    """What the page warns of: given the dependency's session, an effect finds it closed."""
    before, after = pairs()[1]
    careless = before.code.replace("tasks.add_task(session.count, sku)", "after(session.count, sku)")
    assert careless != before.code
    imports, setup = after.code.partition("app = ")[0], after.code.splitlines()[-1]
    block = Block(before.section, "careless", "python", before.line, f"{imports}\n{careless}\n\n{setup}")
    assert done_by(block, [ORDER]) == [("count", "tea", "closed")]


def test_every_block_is_run() -> None:
    """No block of Python is left out: each has a title, and is one of a pair or replaces what is no Python."""
    fences = re.findall(r"^```python.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(pairs()) + 1
    assert len(pairs()) == 4


@pytest.mark.parametrize(("section", "files"), TESTS.items(), ids=TESTS)
def test_every_sentence_is_tested(section: str, files: str) -> None:
    """Each sentence in bold type begins the docstring of a test, and each such docstring begins with a sentence."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in Path(__file__).parent.glob(files)]
    tests = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sentences = [ast.get_docstring(test) or "" for test in tests if test.name.startswith("test_")]
    said = [claim.removesuffix(".") for claim in claims()[section]]
    assert len(said) == len(set(said))
    assert [claim for claim in said if not any(sentence.startswith(claim) for sentence in sentences)] == []
    assert [sentence for sentence in sentences if not sentence.startswith(tuple(said))] == []


def test_no_section_is_left_out() -> None:
    """Every section that says something has a file of tests."""
    assert set(claims()) == set(TESTS)


def test_the_versions() -> None:
    """The page names the versions that the tests are run with."""
    names = {"Starlette": "starlette", "FastAPI": "fastapi", "fastapi-events": "fastapi-events", "Litestar": "litestar"}
    names["uvicorn"] = "uvicorn"
    pinned = dict(
        line.split("==") for line in (PAGE.parents[1] / "constraints.txt").read_text().split() if "==" in line
    )
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name, package in names.items() if f"{name} {pinned[package]}" not in page] == []
