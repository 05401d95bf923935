"""Routes: kinds to sinks, checked as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from sidefx import ConfigError, Event, SideEffects, SinkOptions
from sidefx.events import kinds
from sidefx.routes import check_routes, kinds_of, takes
from sidefx.sink import inspect_sink


class Line(BaseModel):
    sku: str


class Placed(Event, kind="routes.placed"):
    total: int
    lines: tuple[Line, ...] = ()
    extra: dict[str, Any] | None = None


class PlacedByGuest(Placed, kind="routes.placed.guest"):
    address: str | None = None


class Gone(Event, kind="routes.gone"):
    reason: str


class TakesPlaced:
    async def send(self, event: Placed) -> None: ...


class TakesBoth:
    async def send_batch(self, events: Sequence[Placed | Gone]) -> None: ...


async def takes_all(event: Event) -> None:
    """A sink of every kind."""


def problems(**sinks: tuple[object, SinkOptions]) -> list[str]:
    """What is wrong with these sinks and options."""
    specs = {name: inspect_sink(sink) for name, (sink, _) in sinks.items()}
    return [str(each) for each in check_routes(specs, {name: options for name, (_, options) in sinks.items()})]


def test_by_default_a_sink_has_every_kind_that_it_accepts() -> None:
    """Subclasses of the annotated class are accepted as well."""
    assert list(kinds_of(inspect_sink(TakesPlaced()), SinkOptions())) == ["routes.placed", "routes.placed.guest"]
    assert kinds_of(inspect_sink(takes_all), SinkOptions()) == kinds()


def test_patterns_choose_among_what_the_sink_accepts() -> None:
    """`*` crosses dots; a pattern never makes a sink take what it does not accept."""
    chosen = kinds_of(inspect_sink(TakesPlaced()), SinkOptions(events=("routes.*",)))
    assert list(chosen) == ["routes.placed", "routes.placed.guest"]
    assert list(kinds_of(inspect_sink(TakesBoth()), SinkOptions(events=("routes.gone", "*.guest")))) == [
        "routes.gone",
        "routes.placed.guest",
    ]


def test_a_kind_defined_later_is_taken() -> None:
    """A class that is imported after the start goes where the patterns say."""
    spec, options = inspect_sink(takes_all), SinkOptions(events=("routes.*",))

    class Late(Event, kind="routes.late"):
        pass

    assert takes(spec, options, Late)
    assert not takes(inspect_sink(TakesPlaced()), options, Late)


@pytest.mark.contract("F01")
@pytest.mark.parametrize(
    ("sink", "options", "expected"),
    [
        (TakesPlaced(), {"events": ("routes.plced",)}, ["a.events[0]: matches no kind of event that is known"]),
        (TakesPlaced(), {"events": ("nothing.*",)}, ["a.events[0]: matches no kind of event that is known"]),
        (TakesPlaced(), {"events": ("routes.gone",)}, ["a.events[0]: the sink does not accept the kind"]),
        (TakesPlaced(), {"events": ("*.gone",)}, ["a.events[0]: the sink does not accept any kind that this matches"]),
        (TakesPlaced(), {"events": ("routes.*",)}, []),
        (TakesPlaced(), {"events": ()}, ["a.events: selects nothing, and no sink names this one as its fallback"]),
        (TakesPlaced(), {"batch": {"max_events": 2}}, ["a.batch: the sink takes one event at a time"]),
        (TakesBoth(), {"batch": {"max_events": 2}}, []),
        (TakesPlaced(), {"fallback": "a"}, ["a.fallback: the fallbacks go in a circle: a → a"]),
        (TakesPlaced(), {"fallback": "b"}, ["a.fallback: no sink has that name"]),
        (TakesBoth(), {"redact": ("reason", "extra.any.thing", "lines.*.sku", "request.path")}, []),
        (TakesPlaced(), {"redact": ("address",)}, []),
        (TakesPlaced(), {"redact": ("total",)}, ["a.redact[0]: Placed.total cannot be masked"]),
        (TakesPlaced(), {"redact": ("reason",)}, ["a.redact[0]: no event of this sink has 'reason' there"]),
        (TakesPlaced(), {"redact": ("totl",)}, ["a.redact[0]: no event of this sink has 'totl'"]),
        (TakesPlaced(), {"redact": ("request.pth",)}, ["a.redact[0]: no event of this sink has 'pth'"]),
        (TakesPlaced(), {"redact": ("total.x",)}, ["a.redact[0]: no event of this sink has 'x' there"]),
        (TakesPlaced(), {"redact": ("lines.sku",)}, ["a.redact[0]: no event of this sink has 'sku' there"]),
        (TakesPlaced(), {"redact": ("lines.*.skew",)}, ["a.redact[0]: no event of this sink has 'skew' there"]),
        (TakesPlaced(), {"redact": ("",)}, ["a.redact[0]: no event of this sink has '' there"]),
        (TakesPlaced(), {"redact": ("id", "at")}, ["a.redact[0]: the lane needs", "a.redact[1]: the lane needs"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_sink(sink: object, options: dict[str, Any], expected: list[str]) -> None:
    """Patterns, batches and paths that cannot work are found before the first event."""
    found = problems(a=(sink, SinkOptions(**options)))
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"sinks.{start}")


@pytest.mark.contract("F01")
def test_a_fallback_has_to_accept_what_falls_back_to_it() -> None:
    """What the first sink takes and the second cannot is named."""
    assert problems(a=(TakesBoth(), SinkOptions(fallback="b")), b=(TakesPlaced(), SinkOptions())) == [
        (
            "sinks.a.fallback: the sink 'b' does not accept routes.gone, which go to 'a'; "
            "name a sink that accepts them, or narrow `events`"
        )
    ]
    narrow = SinkOptions(fallback="b", events=("routes.placed*",))
    assert problems(a=(TakesBoth(), narrow), b=(TakesPlaced(), SinkOptions())) == []


def test_a_sink_may_be_a_fallback_and_nothing_else() -> None:
    """`events = []` is right for a sink that another names as its fallback."""
    found = problems(a=(TakesPlaced(), SinkOptions(fallback="b")), b=(takes_all, SinkOptions(events=())))
    assert found == []


@pytest.mark.contract("F01")
def test_a_circle_of_fallbacks_is_reported_once() -> None:
    """However many sinks lead into it."""
    found = problems(
        a=(takes_all, SinkOptions(fallback="b")),
        b=(takes_all, SinkOptions(fallback="c")),
        c=(takes_all, SinkOptions(fallback="b")),
        d=(takes_all, SinkOptions(fallback="a")),
    )
    assert found == ["sinks.b.fallback: the fallbacks go in a circle: b → c → b; let one of them have no fallback"]


@pytest.mark.contract("F01")
def test_code_is_checked_as_files_are() -> None:
    """A runtime built in code raises the same problems, and options that belong to no sink."""
    options = {"ops": SinkOptions(events=("routes.plced",)), "opps": SinkOptions()}
    with pytest.raises(ConfigError) as raised:
        SideEffects({"ops": TakesPlaced()}, options)
    assert str(raised.value).splitlines() == [
        "2 mistakes in the configuration",
        "  sinks.opps: these options belong to no sink; did you mean 'ops'?",
        "  sinks.ops.events[0]: matches no kind of event that is known; did you mean 'routes.placed'?",
    ]
