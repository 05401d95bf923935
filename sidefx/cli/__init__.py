"""The command line: `sidefx` and `python -m sidefx`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Runs the command that `sys.argv` names, and exits: with 0, 1 (a problem was found) or 2 (wrong usage)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks is no failure
    try:
        from sidefx.cli.app import app  # noqa: PLC0415 - click and rich are an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.stderr.write("sidefx: the command line needs click and rich; run: pip install 'sidefx[cli]'\n")
        sys.exit(2)
    app(prog_name="sidefx")
