"""Commands that installed packages publish: listed, called, and broken without breaking others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import Result

from sidefx.cli import installed
from tests.cli.conftest import command

Run = Callable[..., Result]

MODULE = """
import click

@click.command()
@click.argument("word")
@click.pass_context
def hello(context, word):
    "Say hello."
    print("hello", word, context.meta["sidefx.sink"]("log", None)[0])

not_a_command = 1
"""


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has packages publish commands, `name="module:attribute"`."""
    (tmp_path / "published_commands.py").write_text(MODULE)
    (tmp_path / "broken_commands.py").write_text("raise RuntimeError('two\\nlines \\x1b[31m')")
    monkeypatch.syspath_prepend(tmp_path)

    def publish(**commands: str) -> None:
        entries = [EntryPoint(name, value, installed.GROUP) for name, value in commands.items()]
        monkeypatch.setattr(installed, "entry_points", lambda group: [each for each in entries if each.group == group])

    yield publish
    for name in ("published_commands", "broken_commands"):
        sys.modules.pop(name, None)


def test_the_help_lists_them_after_its_own(run: Run, publish: Callable[..., None]) -> None:
    """A broken one is listed as one."""
    publish(zeta="published_commands:hello", bad="broken_commands:x", gone="no_such_module:x")
    result = run("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == ["check", "journal", "dead", "schema", "bad", "gone", "zeta"]
    assert "Say hello." in result.stdout
    assert "Cannot be loaded: sidefx bad says why." in result.stdout


def test_one_is_called_with_its_arguments(run: Run, publish: Callable[..., None]) -> None:
    """It finds a sink of the configuration by its context."""
    publish(zeta="published_commands:hello")
    result = run("zeta", "you", text='[sinks.lines]\ntype = "log"\n')
    assert (result.exit_code, result.stdout) == (0, "hello you lines\n")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("broken_commands:x", "sidefx bad: cannot be loaded from broken_commands:x: RuntimeError: two"),
        ("no_such_module:x", "sidefx bad: cannot be loaded from no_such_module:x: ModuleNotFoundError: No module"),
        ("published_commands:absent", "AttributeError"),
        ("published_commands:not_a_command", "published_commands:not_a_command is no click command"),
    ],
)
def test_a_broken_one_says_why(run: Run, publish: Callable[..., None], value: str, said: str) -> None:
    """Whatever it is called with; exit code 2; the others work."""
    publish(bad=value)
    for arguments in ((), ("--help",), ("list", "--json")):
        result = run("bad", *arguments)
        assert result.exit_code == 2
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert run("schema").exit_code == 0


def test_a_package_cannot_replace_a_command_of_ours(run: Run, publish: Callable[..., None]) -> None:
    """Its own names come first."""
    publish(schema="broken_commands:x")
    assert run("schema").exit_code == 0


def test_others_are_not_imported(run: Run, publish: Callable[..., None]) -> None:
    """Calling one command imports no other's module."""
    publish(zeta="published_commands:hello", bad="broken_commands:x")
    assert run("schema").exit_code == 0
    assert "published_commands" not in sys.modules


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact line that installs it."""

    class Distribution:
        name = "sidefx"

    entry = EntryPoint("audit", "x:y [audit]", installed.GROUP)
    vars(entry).update(dist=Distribution())
    reason = installed._reason(entry, ModuleNotFoundError("no", name="sqlalchemy"))
    assert reason == "needs sqlalchemy; run: pip install 'sidefx[audit]'"


def test_the_audit_commands_are_published() -> None:
    """By the distribution itself."""
    ran = subprocess.run(command("--help"), capture_output=True, text=True, check=True)
    assert "\n  audit " in ran.stdout
