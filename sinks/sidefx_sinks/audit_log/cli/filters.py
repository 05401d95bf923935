"""Which records are meant: `--actor`, `--action`, `--target`, `--outcome`, `--tenant`, `--since`, `--until`."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

import click

from sidefx import AuditEvent
from sidefx_sinks.audit_log.cli.output import printable
from sidefx_sinks.audit_log.query import Filters

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d|w)")
_OUTCOMES = get_args(AuditEvent.model_fields["outcome"].annotation)


class Moment(click.ParamType[datetime]):
    """A time, or how long ago it was."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """An ISO 8601 time, in UTC where it names no zone; or a length of time before now."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            if (match := _LENGTH.fullmatch(text)) is not None:
                return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
            at = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(
                f"{printable(text)!r} is no time; write it as in 2026-03-29T12:00, or as in 90s, 2h, 30d", param, ctx
            )
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """The command `function(..., filters=...)`, with the options."""
    texts = {
        "--actor": "Who did it.",
        "--action": "What was done. A * at the end stands for any rest: order.*",
        "--target": "What it was done to; takes a * as well.",
        "--tenant": "Whose it is.",
    }

    @click.option("--since", type=Moment(), metavar="TIME", help="From then on: 2026-03-29T12:00 (UTC), or 2h ago.")
    @click.option("--until", type=Moment(), metavar="TIME", help="Before then.")
    @click.option("--outcome", type=click.Choice(_OUTCOMES), help="How it ended.")
    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> None:
        chosen = {name: options.pop(name) for name in ("since", "until", "outcome", *(key[2:] for key in texts))}
        function(*args, filters=Filters(**chosen), **options)

    for option, text in reversed(texts.items()):
        command = click.option(option, metavar="TEXT", help=text)(command)
    return command
