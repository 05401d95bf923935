"""Asking every sink whether it could deliver: opened, checked and closed, all at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio

from sidefx.hosting import in_threads, opened
from sidefx.report import summary_of
from sidefx.threads import DaemonThreads

if TYPE_CHECKING:
    from sidefx.config import Config
    from sidefx.hosting import Caller


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one sink."""

    sink: str
    status: Literal["ok", "failed", "has no check"]
    reason: str = ""


async def ask(config: Config) -> list[Answer]:
    """The answers of all sinks, in the file's order; each has its own `timeout`, in seconds, to give one."""
    answers: dict[str, Answer] = {}
    call = in_threads(DaemonThreads())

    async def ask_one(name: str) -> None:
        answers[name] = await _answer(name, config.sinks[name], config.options[name].timeout, call)

    async with anyio.create_task_group() as tasks:
        for name in config.sinks:
            tasks.start_soon(ask_one, name)
    return [answers[name] for name in config.sinks]


async def _answer(name: str, sink: object, timeout: float, call: Caller) -> Answer:
    check = getattr(sink, "check", None)
    limit = anyio.current_time() + timeout
    try:
        with anyio.CancelScope(deadline=limit) as scope:
            async with opened(sink, call):
                if check is not None:
                    await call(check)
    except Exception as error:  # noqa: BLE001 - whatever a sink raises is its answer
        return Answer(name, "failed", summary_of(error))
    if scope.cancelled_caught:
        return Answer(name, "failed", f"no answer within its timeout of {timeout:g} s")
    return Answer(name, "ok" if check is not None else "has no check")
