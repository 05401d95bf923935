"""`${NAME}` in string values: replaced after parsing, so that a value cannot add settings of its own."""

from __future__ import annotations

import os
import re
from typing import Any

from sidefx.config.sources import FromEnvironment, Tree
from sidefx.problems import Problem, dotted

_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<or>:-(?P<default>[^}]*))?\}|(?P<malformed>\$\{)"
)


def substitute(tree: Tree) -> tuple[Tree, list[Problem]]:
    """The tree with every `${NAME}` and `${NAME:-default}` replaced, and a problem for each that is unset.

    As in a shell, the default stands in for a variable that is unset or empty. `$${` is a plain `${`.
    What an environment variable has overridden is left alone. A string with an unset variable stays
    as it was written.
    """
    problems: list[Problem] = []
    return _substituted(tree, (), problems), problems


def _substituted(value: Any, path: tuple[str | int, ...], problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        return {key: _substituted(child, (*path, key), problems) for key, child in value.items()}
    if isinstance(value, list):
        return [_substituted(child, (*path, index), problems) for index, child in enumerate(value)]
    if not isinstance(value, str) or isinstance(value, FromEnvironment) or "${" not in value:
        return value
    wrong: list[str] = []

    def resolve(match: re.Match[str]) -> str:
        if match["malformed"]:
            wrong.append("'${' begins no variable: write '${NAME}' or '${NAME:-default}', or '$${' for a plain '${'")
            return match[0]
        if match["name"] is None:
            return "${"
        found = os.environ.get(match["name"])
        if found is None or (found == "" and match["or"]):
            if match["or"]:
                return match["default"]
            wrong.append(f"the environment variable {match['name']} is not set")
            return match[0]
        return found

    resolved = _REFERENCE.sub(resolve, value)
    if wrong:
        unset = any("is not set" in reason for reason in wrong)
        remedy = "set it, or write a default as in '${NAME:-default}'" if unset else ""
        problems.append(Problem(dotted(path), " and ".join(dict.fromkeys(wrong)), remedy))
        return value
    return resolved
