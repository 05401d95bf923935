"""`Config`: what a configuration file comes to, and `load`, which reads one or says all that is wrong with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidefx.config.sinks import Draft, draft_sink
from sidefx.config.sources import Tree, merged
from sidefx.config.substitution import substitute
from sidefx.config.tables import validate
from sidefx.options import JournalOptions, RuntimeOptions
from sidefx.problems import ConfigError, Problem, dotted, nearest
from sidefx.routes import check_routes

if TYPE_CHECKING:
    from sidefx.options import SinkOptions

TABLES = ("runtime", "journal", "sinks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that has no mistakes: every sink is made, and none is open."""

    sinks: dict[str, object] = field(repr=False)  # a sink's repr is its author's, and may show a secret
    """The sinks by name, in the file's order."""
    types: dict[str, str]
    """Their types, as the file has them."""
    options: dict[str, SinkOptions]
    runtime: RuntimeOptions
    journal: JournalOptions | None = None
    """None where the file has no such table: then it is made where a sink's delivery asks for it."""


def config_path(path: str | os.PathLike[str] | None = None) -> str:
    """The file that is meant: this one, else what `SIDEFX_CONFIG` names, else `sidefx.toml`."""
    return os.fspath(path or os.environ.get("SIDEFX_CONFIG") or "sidefx.toml")


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in the TOML file `path`, overridden by `SIDEFX_…` environment variables.

    Imports the modules of the sinks and calls their constructors; opens nothing.

    Raises:
        ConfigError: the file cannot be read, or has mistakes: all of them at once.
    """
    file = Path(path)
    tree = merged(file)
    resolved, unset = substitute(tree)
    spoilt = {problem.path for problem in unset}
    runtime, problems = validate(RuntimeOptions, _table(resolved, "runtime"), ("runtime",))
    journal: JournalOptions | None = None
    if "journal" in resolved:
        journal, more = validate(JournalOptions, _table(resolved, "journal"), ("journal",))
        problems += more
    drafts = [draft_sink(name, table, spoilt) for name, table in _table(resolved, "sinks").items()]
    problems += [problem for draft in drafts for problem in draft.problems]
    problems += [*_check_tables(resolved), *_routes(drafts)]
    # An unset variable leaves its text where it was, so what is found wrong with that text is no news.
    problems = [*unset, *(problem for problem in problems if problem.path not in spoilt)]
    if problems or runtime is None:
        raise ConfigError(problems, source=str(file))
    return Config(
        sinks={draft.name: draft.sink for draft in drafts},
        types={draft.name: draft.type for draft in drafts},
        options={draft.name: draft.options for draft in drafts},
        runtime=runtime,
        journal=journal,
    )


def load_journal(path: str | os.PathLike[str]) -> tuple[JournalOptions, tuple[str, ...]]:
    """The journal's options, and the names of the sinks, in the same file; whatever else is in it is not looked at.

    Imports nothing and makes no sink: the journal can be looked after where a sink's library or password is missing.

    Raises:
        ConfigError: the file cannot be read, or its `[journal]` has mistakes.
    """
    file = Path(path)
    tree = merged(file)
    resolved, problems = substitute({"journal": tree.get("journal", {})})
    options, more = validate(JournalOptions, _table(resolved, "journal"), ("journal",))
    spoilt = {problem.path for problem in problems}
    problems = [*problems, *_check_tables(resolved), *(problem for problem in more if problem.path not in spoilt)]
    if problems or options is None:
        raise ConfigError(problems, source=str(file))
    return options, tuple(_table(tree, "sinks"))


def _table(tree: Tree, name: str) -> dict[str, Any]:
    table = tree.get(name, {})
    return table if isinstance(table, dict) else {}


def _check_tables(tree: Tree) -> list[Problem]:
    problems = []
    for name, value in tree.items():
        path = dotted((name,))
        if name not in TABLES:
            problems.append(
                Problem(path, "unknown table" if isinstance(value, dict) else "unknown key", nearest(name, TABLES))
            )
        elif not isinstance(value, dict):
            problems.append(
                Problem(path, "has to be a table", "write [sinks.NAME]" if name == "sinks" else f"write [{name}]")
            )
    return problems


def _routes(drafts: list[Draft]) -> list[Problem]:
    """What is wrong between sinks, those that could not be made included as far as they are known."""
    specs = {draft.name: draft.spec for draft in drafts if draft.spec is not None}
    options = {draft.name: draft.options for draft in drafts if draft.spec is not None}
    return check_routes(specs, options, unbuilt=[draft.name for draft in drafts])
