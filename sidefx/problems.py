"""`Problem`: one mistake in the configuration, where it stands and how to mend it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidefx.errors import SidefxError

if TYPE_CHECKING:
    from collections.abc import Iterable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MANY = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. It never holds the value that was given, which may be a secret."""

    path: str
    """Where, as in the file: `sinks.audit.retry.attempts`, `sinks.audit.events[0]`."""
    reason: str
    suggestion: str = ""
    """What to write instead, or to do; empty where nothing can be guessed."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.reason}" if self.path else self.reason
        return printable(f"{text}; {self.suggestion}" if self.suggestion else text)


class ConfigError(SidefxError):
    """The configuration has mistakes; `problems` is all of them, and the message has a line for each."""

    def __init__(self, problems: Iterable[Problem], *, source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = f"{len(self.problems)} mistake{'s' if len(self.problems) != 1 else ''}"
        heading = f"{count} in {printable(source)}" if source else f"{count} in the configuration"
        super().__init__("\n".join([heading, *(f"  {problem}" for problem in self.problems)]))


def dotted(parts: Iterable[str | int]) -> str:
    """The path as TOML would write it: `sinks.audit.events[0]`, `sinks."odd name"`."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            path += f".{key}" if path else key
    return path


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion: the valid name most like `name`, else the valid names."""
    known = sorted(set(names))
    close = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name.lower(), known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return ""
    return f"known: {', '.join(known[:_MANY])}{', …' if len(known) > _MANY else ''}"


def printable(text: str) -> str:
    """The text with control characters escaped, so that a name from a file cannot steer a terminal or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
