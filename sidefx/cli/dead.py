"""`sidefx dead`: events that a sink was given up for, to be looked at, replayed (`replay.py`) or thrown away."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from sidefx.cli.filters import Filters, filtered
from sidefx.cli.group import InOrder
from sidefx.cli.output import age, counted, line, note, print_rows, terminal_width
from sidefx.cli.place import on_journal
from sidefx.cli.replay import replay
from sidefx.problems import printable

if TYPE_CHECKING:
    from uuid import UUID

    from sidefx.cli.place import Place
    from sidefx.dead_letters import DeadLetter

_LISTED = 50
_HEADING = ("id", "when", "sink", "kind", "result", "attempts", "reason")
_UNITS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d|w)")


@click.group(cls=InOrder)
def dead() -> None:
    """Dead letters: events that a sink refused, or did not take in time.

    They lie in the journal's directory until they are replayed or purged.
    """


@click.command("list")
@filtered
@click.option("--limit", type=click.IntRange(min=1), default=_LISTED, show_default=True, help="List at most so many.")
@click.option("--all", "everything", is_flag=True, help="List all of them.")
@on_journal
def list_(place: Place, *, filters: Filters, limit: int, everything: bool, as_json: bool) -> None:
    """List dead letters, the newest first."""
    letters = place.store.newest(**filters.matching(), texts=as_json)
    shown = letters if everything else islice(letters, limit)
    if as_json:
        count = 0
        for count, letter in enumerate(shown, start=1):  # noqa: B007 - counted on the way: there may be many
            line("letter", **_fields(letter))
    else:
        listed = list(shown)
        count = len(listed)
        if listed:
            ages = terminal_width() is not None
            print_rows(_HEADING, [_row(letter, ages=ages) for letter in listed])
    total, _ = place.store.count(**filters.matching())
    if not total:
        note(filters.nothing(place))
    elif count < total:
        note(f"the newest {count:,} of {counted(total, 'dead letter')}; --limit N or --all lists more")
    elif not as_json:
        note(counted(total, "dead letter"))


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.UUID)
@on_journal
def show(place: Place, *, ids: tuple[UUID, ...], as_json: bool) -> None:
    """Show all that is known of an event's dead letters, the event included, as its sink would have seen it.

    Exit codes: 0 all is shown, 1 an event has no dead letter, 2 wrong usage or configuration.
    """
    missing = []
    for id_ in dict.fromkeys(ids):
        letters = list(place.store.newest(ids=[id_]))
        for letter in letters:
            if as_json:
                line("letter", **_fields(letter))
            else:
                click.echo("\n".join([*_described(letter), ""]))
        if not letters:
            missing.append(id_)
    for id_ in missing:
        note(f"no dead letter of event {id_} is here; it may have been replayed, or purged")
    sys.exit(1 if missing else 0)


@click.command()
@click.option("--older-than", "length", metavar="TIME", required=True, help="As in 30d; units: s, min, h, d, w.")
@filtered
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal either.")
@on_journal
def purge(place: Place, *, length: str, filters: Filters, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete old dead letters for good. On a terminal it asks first."""
    before = _before(length)
    what = f"older than {length.strip()}{filters.described()}"
    if not dry_run:
        place.check_user()
    count, _ = place.store.count(**filters.matching(), before=before)
    purged = 0
    if count and not dry_run:
        if sys.stdin.isatty() and not yes:
            click.confirm(f"Delete {counted(count, 'dead letter')} {what}, for good?", abort=True, err=True)
        purged = place.store.purge(before=before, sink=filters.sink, kind=filters.kind)
    if as_json:
        line("purge", found=count, purged=purged, before=before.isoformat(), sink=filters.sink, kind=filters.kind)
    elif dry_run:
        click.echo(f"{counted(count, 'dead letter')} {what}; nothing is deleted")
    else:
        click.echo(f"{counted(purged, 'dead letter')} {what} deleted")


for _command in (list_, show, replay, purge):
    dead.add_command(_command)


def _before(length: str) -> datetime:
    if (match := _LENGTH.fullmatch(length.strip())) is None:
        msg = f"{printable(length)!r} is no length of time; write it as in 90s, 15min, 12h, 30d or 4w"
        raise click.BadParameter(msg, param_hint="--older-than")
    try:
        return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        msg = f"{printable(length)} is longer than time has been counted"
        raise click.BadParameter(msg, param_hint="--older-than") from None


# --- how letters are printed ----------------------------------------------------------------------------


def _row(letter: DeadLetter, *, ages: bool) -> list[str]:
    when = f"{age(time.time() - letter.at.timestamp())} ago" if ages else letter.at.isoformat(timespec="seconds")
    about = (letter.sink, letter.kind, letter.result, f"{letter.attempts}", letter.reason or letter.error)
    return [f"{letter.event_id}", when, *about]


def _fields(letter: DeadLetter) -> dict[str, Any]:
    """All of it for JSON; `text` only where that is not JSON itself."""
    event = None if letter.text is None else _read(letter.text)
    return {
        "event_id": f"{letter.event_id}",
        "sink": letter.sink,
        "kind": letter.kind,
        "result": letter.result,
        "attempts": letter.attempts,
        "at": letter.at.isoformat(),
        "reason": letter.reason,
        "error": letter.error,
        "request_id": letter.request_id,
        "call_site": letter.call_site,
        "event": event,
        **({} if event is not None or letter.text is None else {"text": letter.text}),
    }


def _read(text: str) -> Any:
    """The event, which another program may have written; None where it is not JSON, or not to be written as JSON."""
    try:
        json.dumps(event := json.loads(text), allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return event


def _described(letter: DeadLetter) -> list[str]:
    attempts = f" after {counted(letter.attempts, 'attempt')}" if letter.attempts else ""
    about = {
        "event": f"{letter.event_id}",
        "kind": letter.kind,
        "sink": letter.sink,
        "result": f"{letter.result}{attempts}",
        "when": f"{letter.at:%Y-%m-%d %H:%M:%S} UTC, {age(time.time() - letter.at.timestamp())} ago",
        "reason": letter.reason,
        "error": letter.error,
        "request": letter.request_id,
        "after() at": letter.call_site,
    }
    lines = [f"{name:<12}{printable(value)}" for name, value in about.items() if value]
    return [*lines, *_event_lines(letter.text)]


def _event_lines(text: str | None) -> list[str]:
    if text is None:
        return ["            it cannot be written as JSON, so it cannot be replayed"]
    event = _read(text)
    if event is None:
        return ["is no JSON:", f"  {printable(text)}"]
    return [f"  {_harmless(each)}" for each in json.dumps(event, indent=2, ensure_ascii=False).split("\n")]


def _harmless(text: str) -> str:
    """JSON as it was, with escapes for what would steer a terminal."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
