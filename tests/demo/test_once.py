"""`python -m sidefx.demo --once`, and what the command refuses."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def counts(output: str, line: str) -> list[int]:
    """The numbers in the line of the tables that begins so."""
    found = re.search(rf"^{re.escape(line)}((?: +[\d,]+)+)$", output, re.MULTILINE)
    assert found is not None, output
    return [int(number) for number in found[1].replace(",", "").split()]


def test_every_effect_of_two_hundred_orders_arrives(run: Run, tmp_path: Path) -> None:
    """200 orders over HTTP leave 200 of everything at the receivers, in silence, and no file behind."""
    code, output, errors = run("--once")
    assert (code, errors) == (0, "")
    assert re.search(r"^response +p50 [\d.]+ ms +p99 [\d.]+ ms$", output, re.MULTILINE)
    for sink in ("audit", "analytics", "email", "cache", "(functions)"):
        assert counts(output, sink) == [200, 200, 0]
    for arrived in (
        "orders answered 201",
        "rows in the audit log",
        "events at the collector",
        "mails in the mailbox",
        "keys dropped from the cache",
    ):
        assert counts(output, arrived) == [200, 200]
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(run: Run) -> None:
    """Where a sink does not get its events, the exit code is 1 and the message says what is missing."""
    code, output, errors = run("--once", "--orders", "5", SIDEFX_SINKS__ANALYTICS__SAMPLE="0")
    assert code == 1
    assert errors == "sidefx demo: 5 events at the collector were expected, 0 were found\n"
    assert counts(output, "analytics") == [5, 0, 5]
    assert "Nothing is missing" not in output


def test_the_audit_log_can_be_kept(run: Run, tmp_path: Path) -> None:
    """`--keep` leaves the database, and a second run counts what it has added to it."""
    kept = tmp_path / "kept" / "here"
    for _ in range(2):
        code, output, _ = run("--once", "--orders", "3", "--keep", str(kept))
        assert code == 0
        assert counts(output, "rows in the audit log") == [3, 3]
    with closing(sqlite3.connect(kept / "audit.db")) as database:
        rows = database.execute("SELECT action, actor, outcome FROM audit_log").fetchall()
    assert len(rows) == 6
    assert rows[0] == ("order.place", "customer-0@example.org", "success")


def test_it_says_where_it_has_to_run(tmp_path: Path) -> None:
    """Outside of a checkout there is no configuration, which is one line and exit code 2."""
    command = (sys.executable, "-m", "sidefx.demo", "--once")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.example.toml" in done.stderr
    assert "--config" in done.stderr


def test_a_mistake_in_the_configuration_is_told(run: Run) -> None:
    """A mistake in the configuration, or a sink that cannot be opened, is told without a traceback."""
    for setting in ({"SIDEFX_SINKS__EMAIL__TIMEOUT": "soon"}, {"SIDEFX_SINKS__EMAIL__TEMPLATES": "/nowhere"}):
        code, _, errors = run("--once", **setting)
        assert code == 2
        assert errors.startswith("sidefx demo: ")
        assert "sinks.email" in errors
        assert "Traceback" not in errors
