"""The command `sidefx` itself: its options, and the commands under it."""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click

from sidefx.cli.check import check
from sidefx.cli.dead import dead
from sidefx.cli.installed import SINK, WithInstalled, find_sink
from sidefx.cli.journal import journal
from sidefx.cli.schema import schema


@click.group(cls=WithInstalled, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("sidefx"), prog_name="sidefx")
@click.option("--config", metavar="PATH", help="The configuration file. Default: SIDEFX_CONFIG, else ./sidefx.toml.")
@click.pass_context
def app(context: click.Context, config: str | None) -> None:
    """Side effects after the response: look after their configuration, their journal and their dead letters.

    Exit codes: 0 all is well, 1 a problem was found, 2 wrong usage or configuration.
    """
    context.obj = config
    context.meta[SINK] = partial(find_sink, config)
    # So that `module:Name` finds the application whose folder this is, as `python -m` would.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


for _command in (check, journal, dead, schema):
    app.add_command(_command)
