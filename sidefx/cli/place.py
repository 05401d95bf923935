"""Which journal a command is about: the one that the configuration names, or `--journal`."""

from __future__ import annotations

import functools
import os
import shlex
import sqlite3
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidefx.cli.output import print_problems
from sidefx.config import config_path, load_journal
from sidefx.errors import JournalError
from sidefx.journal import lock
from sidefx.journal.dead import DeadStore
from sidefx.journal.directory import Directory
from sidefx.options import JournalOptions
from sidefx.problems import ConfigError, Problem, nearest
from sidefx.report import one_line

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Place:
    """The journal that is meant. It is there; nothing of it is open."""

    options: JournalOptions
    directory: Directory
    store: DeadStore
    sinks: tuple[str, ...]
    """The sinks' names, as the file has them; empty where no file was read."""

    def check_user(self) -> None:
        """To be called before anything is written.

        Raises:
            ConfigError: the app is another user's, who could not read what this one writes.
        """
        import pwd  # noqa: PLC0415 - POSIX has it, as it has the journal

        made_by_the_app = self.store.path if self.store.path.exists() else self.directory.path
        if (owner := made_by_the_app.stat().st_uid) == os.geteuid():
            return
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        reason = f"belongs to the user {name}, who could not read what another one writes"
        command = shlex.join(["sudo", "-u", name, "sidefx", *sys.argv[1:]])
        raise ConfigError([Problem(f"{self.directory.path}", reason, f"run this as that user: {command}")])

    def check_sink(self, name: str) -> None:
        """To be called with a sink that is to take something.

        Raises:
            ConfigError: the configuration has no such sink.
        """
        if self.sinks and name not in self.sinks:
            raise ConfigError([Problem("--to", f"there is no sink named {name!r}", nearest(name, self.sinks))])


def find(config: str | None, journal: str | None) -> Place:
    """The journal in the directory `journal`, else the one that the configuration names.

    Raises:
        ConfigError: there is none, with what to do about it.
    """
    if config is not None and journal is not None:
        reason = "--config and --journal both say which journal is meant"
        raise ConfigError([Problem("", reason, "give one of them")])
    if journal is None:
        options, sinks = load_journal(config_path(config))
    else:
        options, sinks = JournalOptions(path=Path(journal)), ()
    if not lock.AVAILABLE:
        raise ConfigError([Problem("journal.path", "the journal needs a POSIX system, for `flock`")])
    directory = Directory(options.path)
    if reason := _unusable(directory):
        remedy = "run this where the app runs, for a relative path is the app's; or name the directory with --journal"
        raise ConfigError([Problem(f"{directory.path}", reason, remedy)])
    return Place(options, directory, DeadStore(directory.dead), sinks)


def _unusable(directory: Directory) -> str:
    try:
        if not stat.S_ISDIR(directory.path.stat().st_mode):
            return "is no directory"
        if not os.access(directory.path, os.R_OK | os.W_OK | os.X_OK):
            return "this user may not use this directory"
        if not directory.dead.exists() and not directory.segments():
            return "no app has kept a journal in this directory"
    except FileNotFoundError:
        return "there is no such directory, so no app has kept a journal there"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    return ""


def on_journal(function: Callable[..., None]) -> Callable[..., None]:
    """The command `function(place, as_json=..., ...)`, with options that say which journal is meant and how to print.

    What it cannot do, it says, and ends with 2 where the user can name it otherwise, else with 1.
    """

    @click.option("--journal", metavar="PATH", help="The journal's directory; default: what the configuration names.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")
    @functools.wraps(function)
    def command(*, journal: str | None, as_json: bool, **options: Any) -> None:
        try:
            function(find(click.get_current_context().obj, journal), as_json=as_json, **options)
        except ConfigError as error:
            print_problems(error.problems, as_json=as_json)
            sys.exit(2)
        except BrokenPipeError:  # `| head` has seen enough
            raise
        except (sqlite3.Error, OSError, JournalError) as error:
            print_problems([_failure(error)], as_json=as_json)
            sys.exit(1)

    return command


def _failure(error: Exception) -> Problem:
    busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    remedy = "a process is writing: try again" if busy else ""
    return Problem("journal", one_line(error), remedy)
