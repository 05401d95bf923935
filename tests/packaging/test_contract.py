"""Every line of `docs/contract.md` is named by a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "docs" / "contract.md"

# The lines that no test names yet. Take a line out when its test is there; put none in.
OPEN: set[str] = set()


def promises() -> list[str]:
    """The ids in the contract, as they stand there."""
    return re.findall(r"^- ([A-Z]\d\d) ", CONTRACT.read_text(encoding="utf-8"), flags=re.MULTILINE)


def named() -> dict[str, list[str]]:
    """Each id that a `contract` marker in tests/ names, with the places; read without running anything."""
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="contract"), args=ids):
                    for promise in ids:
                        where = f"{path.relative_to(ROOT)}:{node.lineno}"
                        assert isinstance(promise, ast.Constant), f"{where}: write the ids out"
                        places.setdefault(str(promise.value), []).append(where)
    return places


def test_the_contract_numbers_each_promise_once() -> None:
    """The contract has its promises, each under an id of its own."""
    found = promises()
    assert len(found) >= 66
    assert sorted(set(found)) == sorted(found)


def test_every_promise_is_named_by_a_test() -> None:
    """A promise that no test names is none, but for those that are said to be open."""
    assert sorted(set(promises()) - set(named()) - OPEN) == []


def test_no_test_names_a_promise_that_was_not_made() -> None:
    """A marker with an unknown id shows nothing."""
    assert {promise: places for promise, places in named().items() if promise not in promises()} == {}


def test_what_is_open_has_no_test_yet() -> None:
    """The list of open promises holds none that has its test by now, and none that was not made."""
    assert sorted(OPEN & set(named())) == [], "these have a test: take them out of OPEN"
    assert sorted(OPEN - set(promises())) == []
