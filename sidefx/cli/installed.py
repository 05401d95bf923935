"""Commands of installed packages: entry points of the group `sidefx.commands`, beside the ones of `sidefx` itself.

A published command is a `click.Command`. It is imported when it is called, or when the help lists it. What it needs of
the configuration it asks of its context: `context.meta["sidefx.sink"](type, name)` gives the name and the sink, made
and not open, of the table `[sinks.NAME]`; with None as the name, of the one table of that type.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from sidefx.cli.group import InOrder
from sidefx.config import ConfigError, Problem, config_path
from sidefx.config.sinks import draft_sink
from sidefx.config.sources import merged
from sidefx.config.substitution import substitute
from sidefx.problems import nearest
from sidefx.report import one_line

GROUP = "sidefx.commands"
SINK = "sidefx.sink"
"""Where in `context.meta` a command finds the function that finds a sink."""


class WithInstalled(InOrder):
    """Its own commands, then those that packages publish."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names; those of packages by the alphabet."""
        own = super().list_commands(ctx)
        return own + sorted(_published().keys() - set(own))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Its own before those of packages, of which a broken one only says so."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or (entry := _published().get(cmd_name)) is None:
            return own
        try:
            command = entry.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - anybody's module; the other commands go on
            return _broken(cmd_name, _reason(entry, error))
        if not isinstance(command, click.Command):
            return _broken(cmd_name, f"{entry.value} is no click command")
        return command


def find_sink(config: str | None, type_: str, name: str | None) -> tuple[str, object]:
    """The sink of the table `[sinks.NAME]`, made and not open; the others are not looked at.

    Raises:
        ConfigError: there is none, there are several of the type, or its table has mistakes.
    """
    source = config_path(config)
    found = merged(Path(source)).get("sinks", {})
    tables: dict[str, Any] = found if isinstance(found, dict) else {}
    if name is None:
        names = [each for each, table in tables.items() if isinstance(table, dict) and table.get("type") == type_]
        if len(names) != 1:
            several = f"say which one with --sink: {', '.join(names)}"
            reason = f"there are {len(names)} sinks" if names else "there is no sink"
            problem = Problem("sinks", f"{reason} of type {type_!r}", several if names else "")
            raise ConfigError([problem], source=source)
        name = names[0]
    if name not in tables:
        raise ConfigError([Problem("--sink", f"there is no sink named {name!r}", nearest(name, tables))], source=source)
    resolved, unset = substitute({"sinks": {name: tables[name]}})
    draft = draft_sink(name, resolved["sinks"][name], {problem.path for problem in unset})
    spoilt = {problem.path for problem in unset}
    if problems := [*unset, *(problem for problem in draft.problems if problem.path not in spoilt)]:
        raise ConfigError(problems, source=source)
    return name, draft.sink


def _published() -> dict[str, EntryPoint]:
    """By name; where several packages publish one name, the first on the path counts."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, entry)
    return found


def _reason(entry: EntryPoint, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and entry.extras and entry.dist is not None:
        return f"needs {error.name}; run: pip install '{entry.dist.name}[{','.join(entry.extras)}]'"
    return f"cannot be loaded from {entry.value}: {type(error).__name__}: {one_line(error)}"


def _broken(name: str, reason: str) -> click.Command:
    def say_why() -> None:
        click.echo(f"sidefx {name}: {reason}", err=True)
        sys.exit(2)

    return click.Command(
        name,
        callback=say_why,
        short_help=f"Cannot be loaded: sidefx {name} says why.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
