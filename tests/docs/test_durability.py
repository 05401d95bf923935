"""The durability page: its blocks of code run, and its table of sinks is complete."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidefx import AuditEvent, audit
from sidefx.config import load
from sidefx.testing import check_sink

PAGE = Path(__file__).parents[2] / "docs" / "durability.md"


def blocks(language: str) -> dict[str, str]:
    """The page's blocks of code in that language, by title."""
    fence = rf'^```{language}(?: title="([^"]+)")?\n(.*?)^```$'
    found = re.findall(fence, PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return dict(found)


def test_every_block_has_its_test() -> None:
    """No block of Python is left out."""
    assert set(blocks("python")) == {"crash.py", "ledger.py"}


@pytest.mark.contract("J02")
def test_the_program_that_is_killed(tmp_path: Path) -> None:
    """It prints nothing and is killed, and prints the delivery when it is run again; then there is nothing left."""
    (tmp_path / "crash.py").write_text(blocks("python")["crash.py"])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "crash.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)

    killed = run("crash")
    assert (killed.returncode, killed.stdout, killed.stderr) == (-signal.SIGKILL, "", "")
    shown = blocks("console")[""]
    assert run().stdout == shown.splitlines()[-1] + "\n" == "delivered: order.create\n"
    assert run().stdout == ""
    assert [path.name for path in (tmp_path / ".sidefx" / "journal").iterdir()] == ["dead.sqlite"]


@pytest.mark.anyio
async def test_the_sink_that_bears_an_event_twice(tmp_path: Path) -> None:
    """It passes the suite of all sinks, which delivers twice, and has each event once."""
    module: dict[str, Any] = {}
    exec(blocks("python")["ledger.py"], module)  # noqa: S102 - our own page
    events: list[AuditEvent] = [audit("order.create"), audit("order.pay")]
    path = tmp_path / "ledger.sqlite"
    await check_sink(lambda: module["Ledger"](path=path), events)
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT id, action FROM ledger ORDER BY id").fetchall()
    assert rows == sorted((str(event.id), event.action) for event in events)


def test_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table at the page's top has no mistake, and does what is said of it."""
    monkeypatch.setenv("AUDIT_DATABASE_URL", "sqlite:///audit.db")
    text = blocks("toml")[""]
    (tmp_path / "sidefx.toml").write_text(text)
    config = load(tmp_path / "sidefx.toml")
    assert config.options["audit"].delivery == "journal"
    assert config.journal is not None
    assert str(config.journal.path) == tomllib.loads(text)["journal"]["path"]


def test_every_sink_says_how_it_bears_an_event_twice() -> None:
    """The page has a row for each sink that comes with sidefx."""
    rows = re.findall(r"^\| \[`(\w+)`\]\(sinks/(\w+)\.md\)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in rows} == {path.stem for path in (PAGE.parent / "sinks").glob("*.md")}
    assert all(name == page for name, page in rows)
