"""The migration page: its blocks of code, which are run, and its sentences, which are tested."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from fastapi_events.handlers.local import local_handler
from fastapi_events.registry.payload_schema import registry

from sidefx.events import event as event_module
from tests.docs import shop

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"

_HEADING = re.compile(r"## (.+)")
_FENCE = re.compile(r'```(\w+) title="(.+)"')
_CLAIM = re.compile(r"- \*\*(.+?)\*\*")


@dataclass(frozen=True)
class Block:
    """A block of code with a title."""

    section: str
    title: str
    language: str
    line: int
    """Of its first line of code."""
    code: str

    def __str__(self) -> str:
        return f"{self.section}, {self.title}, line {self.line}"


def blocks() -> list[Block]:
    """All that have a title, in order."""
    found: list[Block] = []
    section = ""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if heading := _HEADING.fullmatch(line):
            section = heading[1]
        if fence := _FENCE.fullmatch(line):
            end = lines.index("```", number)
            code = "\n".join(lines[number:end])
            found.append(Block(section, fence[2], fence[1], number + 1, code))
    return found


def pairs() -> list[tuple[Block, Block]]:
    """Before and after, where both are Python."""
    python = [block for block in blocks() if block.language == "python"]
    return [(one, two) for one, two in pairwise(python) if (one.title, two.title) == ("Before", "After")]


def claims() -> dict[str, list[str]]:
    """The sentences in bold type at the head of a list's items, by section."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := _HEADING.fullmatch(line):
            section = heading[1]
        if claim := _CLAIM.match(line):
            found.setdefault(section, []).append(claim[1])
    return found


@contextmanager
def run(block: Block) -> Iterator[ModuleType]:
    """The module that the block makes, with the shop that it imports, and nothing left behind of what it registers."""
    module = ModuleType(f"migration_page_line_{block.line}")
    with ExitStack() as stack:
        stack.enter_context(patch.dict(sys.modules, {"shop": shop, module.__name__: module}))
        kinds = stack.enter_context(patch.dict(event_module._by_kind))
        kinds.pop("order.placed", None)  # other tests, and other blocks, have events of that kind
        stack.enter_context(patch.dict(local_handler._registry))
        stack.enter_context(patch.dict(registry.data))
        stack.enter_context(patch("logging.config.dictConfig"))  # Litestar would set up logging for all other tests
        exec(compile("\n" * (block.line - 1) + block.code, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - our own page
        yield module
