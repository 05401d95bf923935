"""`FanOut`: the same targets for several nodes, what became of each at each, and whom a retry can leave out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

import anyio

from sidefx import PermanentError, TransientError
from sidefx_sinks.cache.store import Target, Wanted

ClearNode: TypeAlias = Callable[[str, Sequence[Target]], Awaitable[Mapping[Target, Exception]]]
"""Clears targets at the node of that name, and answers those that failed there."""

_MAX_REMEMBERED = 10_000
"""Events under retry; the oldest is forgotten beyond it, and its next retry goes to every node again."""
_MAX_TOLD = 3
"""Nodes that an error quotes."""


class FanOut:
    """Clears on all nodes side by side: one that hangs keeps no other waiting.

    A node that has taken all that an event names is not asked again when that event is retried for another
    node's sake. It is noted as the node answers, so that it holds for an attempt that the lane cut off as well. It is
    noted by the event's id: another event that names the same thing, written to since, goes to every node.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = nodes
        self._taken: OrderedDict[UUID, set[tuple[str, Target]]] = OrderedDict()

    async def clear(self, wanted: Wanted, clear_node: ClearNode) -> dict[Target, Exception]:
        """The failures by target: permanent only where no node may yet take it."""
        results: dict[str, Mapping[Target, Exception]] = {}
        async with anyio.create_task_group() as group:
            for node in self._nodes:
                group.start_soon(self._clear_one, node, wanted, clear_node, results)
        failures = {
            target: self._told({node: results[node][target] for node in self._nodes if target in results[node]})
            for target in wanted
            if any(target in failed for failed in results.values())
        }
        self._forget(wanted, failures)
        return failures

    async def _clear_one(
        self, node: str, wanted: Wanted, clear_node: ClearNode, results: dict[str, Mapping[Target, Exception]]
    ) -> None:
        open_here = [target for target, askers in wanted.items() if not self._is_done(node, target, askers)]
        failed = await clear_node(node, open_here) if open_here else {}
        results[node] = failed
        unserved = {asker for target in failed for asker in wanted[target]}
        for target, askers in wanted.items():  # by target, for a window asks for those of one event in two steps
            for asker in set(askers) - unserved:
                self._taken.setdefault(asker, set()).add((node, target))
        while len(self._taken) > _MAX_REMEMBERED:
            self._taken.popitem(last=False)

    def _is_done(self, node: str, target: Target, askers: Collection[UUID]) -> bool:
        return bool(askers) and all((node, target) in self._taken.get(asker, ()) for asker in askers)

    def _forget(self, wanted: Wanted, failures: Mapping[Target, Exception]) -> None:
        """What succeeded everywhere comes again only as a repetition, which is to reach every node."""
        unserved = {asker for target in failures for asker in wanted[target]}
        for askers in wanted.values():
            for asker in askers:
                if asker not in unserved:
                    self._taken.pop(asker, None)

    def _told(self, errors: Mapping[str, Exception]) -> Exception:
        """One error for what failed at some nodes: worth a retry where one of them may take it later."""
        first = next(iter(errors.values()))
        if len(self._nodes) == 1:
            return first
        reasons = list(dict.fromkeys(str(error).removeprefix("cache: ") for error in errors.values()))
        more = f"; and {len(reasons) - _MAX_TOLD} more" if len(reasons) > _MAX_TOLD else ""
        msg = f"cache: {len(errors)} of {len(self._nodes)} nodes failed: {'; '.join(reasons[:_MAX_TOLD])}{more}"
        later = [error for error in errors.values() if isinstance(error, TransientError)]
        if not later:
            return PermanentError(msg)
        pauses = [error.retry_after for error in later if error.retry_after is not None]
        return TransientError(msg, retry_after=max(pauses, default=None))
