"""Routes: which kinds of event go to which sink, and whether all of them can."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from sidefx.events import kinds
from sidefx.lanes.redact import why_not_maskable
from sidefx.paths import names, step
from sidefx.problems import Problem, dotted, nearest
from sidefx.settled import CALLABLES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from sidefx.events import Event
    from sidefx.options import SinkOptions
    from sidefx.sink import SinkSpec

_NEEDED = frozenset({"id", "at"})


def takes(spec: SinkSpec, options: SinkOptions, event_type: type[Event]) -> bool:
    """Whether events of that class go to the sink: it accepts them, and `events` does not leave them out."""
    if not spec.accepts(event_type):
        return False
    return options.events is None or any(fnmatchcase(event_type.kind, pattern) for pattern in options.events)


def kinds_of(spec: SinkSpec, options: SinkOptions) -> dict[str, type[Event]]:
    """The kinds known to this process that go to the sink, with their classes, by name."""
    return {kind: cls for kind, cls in sorted(kinds().items()) if takes(spec, options, cls)}


def check_routes(
    sinks: Mapping[str, SinkSpec],
    options: Mapping[str, SinkOptions],
    *,
    unbuilt: Collection[str] = (),
) -> list[Problem]:
    """Every mistake that takes more than one sink, or the events, to see; empty where all is well.

    A sink without an entry in `options` has every kind that it accepts. `unbuilt` names sinks that
    exist in the configuration and could not be made: a `fallback` to one is not reported again.

    A sink with `events = []` takes nothing by itself; it has to be the fallback of another. What
    falls back to a sink does so whatever its own `events` select.
    """
    present = {*sinks, *unbuilt}
    problems = [
        Problem(dotted(("sinks", name)), "these options belong to no sink", nearest(name, present))
        for name in options
        if name not in present
    ]
    if CALLABLES in present:
        reason = "is what statistics call the functions given to after()"
        problems.append(Problem(dotted(("sinks", CALLABLES)), reason, "give the sink another name"))
    fallbacks = {name: options[name].fallback for name in sinks if name in options}
    for name, spec in sinks.items():
        if name in options:
            problems += _check_events(name, spec, options[name], is_fallback=name in fallbacks.values())
            problems += _check_batch(name, spec, options[name])
            problems += _check_redact(name, spec, options[name])
            problems += _check_fallback(name, spec, options[name], sinks, present)
    return [*problems, *_check_cycles(fallbacks)]


def _check_events(name: str, spec: SinkSpec, options: SinkOptions, *, is_fallback: bool) -> Iterator[Problem]:
    known = kinds()
    accepted = [kind for kind, cls in known.items() if spec.accepts(cls)]
    if options.events == () and not is_fallback:
        yield Problem(
            dotted(("sinks", name, "events")),
            "selects nothing, and no sink names this one as its fallback",
            "leave `events` out for every kind that the sink accepts",
        )
    for index, pattern in enumerate(options.events or ()):
        path = dotted(("sinks", name, "events", index))
        matched = [kind for kind in known if fnmatchcase(kind, pattern)]
        if not matched:
            yield Problem(path, "matches no kind of event that is known", nearest(pattern, accepted))
        elif not set(matched) & set(accepted):
            what = "the kind" if pattern in known else "any kind that this matches"
            yield Problem(path, f"the sink does not accept {what}", f"it accepts: {', '.join(sorted(accepted))}")


def _check_batch(name: str, spec: SinkSpec, options: SinkOptions) -> Iterator[Problem]:
    if not spec.batch and "batch" in options.model_fields_set:
        yield Problem(
            dotted(("sinks", name, "batch")),
            "the sink takes one event at a time (it has `send`, not `send_batch`)",
            "remove `batch`",
        )


def _check_redact(name: str, spec: SinkSpec, options: SinkOptions) -> Iterator[Problem]:
    events = list(kinds_of(spec, options).values())
    for index, redacted in enumerate(options.redact):
        path = dotted(("sinks", name, "redact", index))
        if redacted in _NEEDED:
            yield Problem(path, "the lane needs this field of every event", "redact another")
            continue
        parts = redacted.split(".")
        parents: list[Any] = []
        level: list[Any] = list(events)
        for part in parts:
            below = [annotation for parent in level for annotation in step(parent, part)]
            if events and not below:
                there = [known for parent in level for known in names(parent)]
                yield Problem(path, f"no event of this sink has '{part}' there", nearest(part, there))
                break
            parents, level = level, below
        else:
            for reason in list(_unmaskable(parents, parts[-1]))[:1]:  # true of a class, true of its subclasses
                yield Problem(path, reason, "redact a part of it, or leave it out")


def _unmaskable(parents: Iterable[Any], name: str) -> Iterator[str]:
    """Why a mask does not fit where the path ends, for each model that has a field of that name there."""
    for parent in parents:
        if isinstance(parent, type) and issubclass(parent, BaseModel) and name in parent.model_fields:
            reason = why_not_maskable(parent, name)
            if reason is not None:
                yield reason


def _check_fallback(
    name: str,
    spec: SinkSpec,
    options: SinkOptions,
    sinks: Mapping[str, SinkSpec],
    present: Collection[str],
) -> Iterator[Problem]:
    path = dotted(("sinks", name, "fallback"))
    if (fallback := options.fallback) is None:
        return
    if fallback not in present:
        yield Problem(path, "no sink has that name", nearest(fallback, {*present} - {name}))
    elif fallback in sinks and fallback != name:
        refused = [kind for kind, cls in kinds_of(spec, options).items() if not sinks[fallback].accepts(cls)]
        if refused:
            yield Problem(
                path,
                f"the sink '{fallback}' does not accept {', '.join(refused)}, which go to '{name}'",
                "name a sink that accepts them, or narrow `events`",
            )


def _check_cycles(fallbacks: Mapping[str, str | None]) -> Iterator[Problem]:
    reported: set[str] = set()
    for start in fallbacks:
        trail: list[str] = []
        name: str | None = start
        while name is not None and name not in trail and name not in reported:
            trail.append(name)
            name = fallbacks.get(name)
        if name in trail:
            circle = trail[trail.index(name) :]
            reported.update(circle)
            yield Problem(
                dotted(("sinks", circle[0], "fallback")),
                f"the fallbacks go in a circle: {' → '.join([*circle, circle[0]])}",
                "let one of them have no fallback",
            )
