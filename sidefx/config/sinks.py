"""A table `[sinks.NAME]`: from its settings to the sink, with every mistake on the way."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import create_model

from sidefx.config.conceal import conceal, texts
from sidefx.config.settings import LANE_KEYS, given, settings_model
from sidefx.config.tables import set_by, validate
from sidefx.errors import MissingExtraError, SidefxError, SinkContractError
from sidefx.options import SinkOptions
from sidefx.plugins import PluginError, SinkType, find, published
from sidefx.problems import Problem, dotted, nearest
from sidefx.sink import SinkSpec, inspect_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

SINK_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_ROUTING = ("events", "redact", "fallback")


@dataclass(slots=True)
class Draft:
    """A sink on its way from the file: complete where it has no problems."""

    name: str
    type: str = ""
    sink: object = None
    spec: SinkSpec | None = None
    """Known of some sinks that could not be made, too: their class says it."""
    options: SinkOptions = field(default_factory=SinkOptions)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, reason: str, suggestion: str = "", *place: str) -> None:
        """One more problem, in the sink's table or at a place in it."""
        self.problems.append(Problem(dotted(("sinks", self.name, *place)), reason, suggestion))


def draft_sink(name: str, table: Any, spoilt: Collection[str] = ()) -> Draft:
    """The sink of that table. It is not made where a path in it is known to be `spoilt`."""
    draft = Draft(name)
    if SINK_NAME.fullmatch(name) is None:
        draft.wrong(
            "is no name for a sink: environment variables cannot address it",
            "use lower-case letters and digits, with single underscores between",
        )
    if not isinstance(table, dict):
        draft.wrong("has to be a table", "write [sinks.NAME]")
        return draft
    _read_options(draft, {key: value for key, value in table.items() if key in LANE_KEYS - {"type"}})
    if (sink_type := _find(draft, table)) is None:
        return draft
    own = {key: value for key, value in table.items() if key not in LANE_KEYS}
    construct = _prepare(draft, sink_type, own)
    if construct is not None and not any(path.startswith(f"{dotted(('sinks', name))}.") for path in spoilt):
        construct()
    if draft.sink is None and inspect.isclass(sink_type.target):
        draft.spec = _spec_of_class(sink_type.target)
    return draft


def _read_options(draft: Draft, table: Mapping[str, Any]) -> None:
    """The lane's options. Where some are wrong, the others are looked at together all the same."""
    path = ("sinks", draft.name)
    options, problems = validate(SinkOptions, table, path)
    if options is None:
        good = {key: value for key, value in table.items() if not any(_is_at(each, (*path, key)) for each in problems)}
        if good != table:
            options, more = validate(SinkOptions, good, path)
            problems += more
        if options is None:
            options, _ = validate(SinkOptions, {key: good[key] for key in _ROUTING if key in good}, path)
    draft.problems += problems
    draft.options = options or SinkOptions()


def _is_at(problem: Problem, path: tuple[str, ...]) -> bool:
    """Whether it is about that key or something in it."""
    return problem.path == dotted(path) or problem.path.startswith((f"{dotted(path)}.", f"{dotted(path)}["))


def _find(draft: Draft, table: Mapping[str, Any]) -> SinkType | None:
    if "type" not in table:
        draft.wrong("is required", f"{nearest('', published())}, or 'module:Name'", "type")
        return None
    if not isinstance(table["type"], str):
        draft.wrong("has to be a string", "", "type")
        return None
    draft.type = str(table["type"])
    try:
        return find(draft.type)
    except PluginError as error:
        draft.wrong(error.reason + set_by(table, ("sinks", draft.name), ("type",)), error.suggestion, "type")
    except MissingExtraError as error:
        draft.wrong(str(error))
    return None


def _prepare(draft: Draft, sink_type: SinkType, table: Mapping[str, Any]) -> Callable[[], None] | None:
    """Checks the settings; where they are right, what is left to do to make the sink: it may find more."""
    if inspect.isclass(sink_type.target) and not {"send", "send_batch", "__call__"} & set(dir(sink_type.target)):
        name = sink_type.target.__qualname__
        draft.wrong(f"{name} is no sink: give it `async def send(self, event: SomeEvent)` or `send_batch`", "", "type")
        return None
    try:
        model = settings_model(sink_type.target) if inspect.isclass(sink_type.target) else create_model("NoSettings")
    except SinkContractError as error:
        draft.wrong(str(error), "", "type")
        return None
    annotations = {str(each.alias): each.annotation for each in model.model_fields.values()}
    for key in [key for key in table if key not in annotations]:
        reason = "unknown key" + set_by(table, ("sinks", draft.name), (key,))
        draft.wrong(reason, nearest(key, {*annotations, *LANE_KEYS}), key)
    known = {key: value for key, value in table.items() if key in annotations}
    hide = partial(conceal, secrets=list(texts(known, annotations)))
    settings, found = validate(model, known, ("sinks", draft.name), conceal=hide)
    draft.problems += found
    if settings is None:
        return None
    return partial(_make, draft, sink_type, given(settings), hide)


def _make(draft: Draft, sink_type: SinkType, arguments: Mapping[str, Any], hide: Callable[[str], str]) -> None:
    try:
        sink = sink_type.target(**arguments) if inspect.isclass(sink_type.target) else sink_type.target
        draft.spec = inspect_sink(sink)
        draft.sink = sink
    except SinkContractError as error:
        draft.wrong(str(error), "", "type")
    except (ValueError, TypeError, SidefxError) as error:
        draft.wrong(hide(str(error)))
    except ImportError as error:
        draft.wrong(hide(str(sink_type.missing(error))))
    except Exception as error:  # noqa: BLE001 - a constructor may raise anything; none of it is worth a traceback
        draft.wrong(hide(f"the constructor failed: {type(error).__name__}: {error}"))


def _spec_of_class(sink_type: type) -> SinkSpec | None:
    """What the class accepts, without a sink: for the checks of routes where the settings are wrong."""
    try:
        return inspect_sink(object.__new__(sink_type))
    except Exception:  # noqa: BLE001 - it is a second look; what is wrong has been reported
        return None
