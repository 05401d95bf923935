"""From a table of the file to a record, and from what pydantic finds wrong to problems."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from sidefx.config.sources import ENV_DELIMITER, ENV_PREFIX, FromEnvironment
from sidefx.paths import names, step
from sidefx.problems import Problem, dotted, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]

_UNAVAILABLE = {"outbox", "engine"}


def validate(
    model: type[Model],
    table: Mapping[str, Any],
    path: Path,
    *,
    conceal: Callable[[str], str] = str,
) -> tuple[Model | None, list[Problem]]:
    """The table as a record, or None and what is wrong with it, at paths under `path`.

    Only pydantic's own words are passed on, never the input; `conceal` is applied to those that the
    author of a validator chose.
    """
    try:
        return model.model_validate(dict(table)), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    except Exception as error:  # noqa: BLE001 - a validator, or a module that it imports, may raise anything
        return None, [Problem(dotted(path), conceal(f"{type(error).__name__}: {error}"))]
    if decoded := _decoded(table, details):
        return validate(model, decoded, path, conceal=conceal)
    return None, _problems(model, table, path, details, conceal)


def _decoded(table: Mapping[str, Any], details: Sequence[ErrorDetails]) -> dict[str, Any] | None:
    """The table with texts of the environment that were refused read as JSON; None where there are none.

    So a text stays one wherever text is due, and `["audit", "order.*"]` is a list where a list is.
    """
    decoded = copy.deepcopy(dict(table))
    for detail in details:
        parent: Any = decoded
        *above, last = _place(table, detail) or ("",)
        for part in above:
            parent = parent[part]
        text = parent[last] if _has(parent, last) else None
        if isinstance(text, FromEnvironment) and text.lstrip().startswith(("[", "{")):
            with suppress(ValueError, RecursionError):
                parent[last] = json.loads(text)
    return decoded if decoded != table else None


def _place(table: Mapping[str, Any], detail: ErrorDetails) -> Path:
    """The error's location as a path in the table, without the names that pydantic gives to a union's members."""
    place: list[str | int] = []
    here: Any = table
    for index, part in enumerate(detail["loc"]):
        if _has(here, part):
            here = here[part]
        elif not (detail["type"] == "missing" and index == len(detail["loc"]) - 1):
            continue
        place.append(part)
    return tuple(place)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _problems(
    model: type[BaseModel],
    table: Mapping[str, Any],
    path: Path,
    details: Sequence[ErrorDetails],
    conceal: Callable[[str], str],
) -> list[Problem]:
    """One problem for each place: the members of a union say theirs together."""
    reasons: dict[Path, list[str]] = {}
    suggestions: dict[Path, str] = {}
    for detail in details:
        place = _place(table, detail)
        reason, suggestion = _explained(model, table, place, detail)
        if reason not in (said := reasons.setdefault(place, [])):
            said.append(conceal(reason))
        suggestions[place] = suggestions.get(place) or suggestion
    return [
        Problem(dotted((*path, *place)), " or ".join(said) + set_by(table, path, place), suggestions[place])
        for place, said in reasons.items()
        if not any(deeper[: len(place)] == place for deeper in reasons if deeper != place)  # a union's other members
    ]


def _explained(model: type[BaseModel], table: Mapping[str, Any], place: Path, detail: ErrorDetails) -> tuple[str, str]:
    if detail["type"] == "missing":
        return "is required", ""
    if detail["type"] == "tuple_type":
        return "has to be a list", "write it in brackets, as in ['audit']"
    if detail["type"] == "extra_forbidden":
        level: list[Any] = [model]
        for part in place[:-1]:
            level = [below for annotation in level for below in step(annotation, part, aliases=True)]
        return "unknown key", nearest(
            str(place[-1]), [name for annotation in level for name in names(annotation, aliases=True)]
        )
    if place == ("delivery",) and (level_name := table["delivery"]) in _UNAVAILABLE:
        return f"delivery '{level_name}' is not available in this version", "use 'memory' or 'journal'"
    return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, "), ""


def set_by(table: Mapping[str, Any], path: Path, place: Path) -> str:
    """Names the environment variable that a wrong value came from, for the file does not have it."""
    here: Any = table
    for part in place:
        here = here[part] if _has(here, part) else None
    if not isinstance(here, FromEnvironment):
        return ""
    variable = ENV_PREFIX + ENV_DELIMITER.join(str(part) for part in (*path, *place)).upper()
    return f" (set by {variable})"
