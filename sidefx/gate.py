"""`Gate` holds a response back until the events scheduled ahead of it are on disk; `Passage` is one response's way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidefx.fan_out import further
from sidefx.lanes.intake import UNDECIDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidefx.dispatch import Dispatcher, Route
    from sidefx.effect import Effect
    from sidefx.entry import Commit
    from sidefx.journal import Journal
    from sidefx.scope import Scope

_FIRST_ERROR_STATUS = 400


class Gate:
    """Where a scope's effects are taken down before what answers it goes on; for any thread and any event loop.

    What cannot be written goes its way in memory, as lanes have it for whatever is in no journal.
    """

    def __init__(self, journal: Journal, dispatcher: Dispatcher) -> None:
        self._journal = journal
        self._options = journal.options
        self._dispatcher = dispatcher

    async def secured(self, effects: Sequence[Effect], *, refusable: bool = False) -> bool:
        """Returns when they are on disk, or cannot be; False where the response is to be refused for that.

        `refusable` says that it has not begun.
        """
        commits = self._kept(effects)
        if self._options.ack == "commit":
            for commit in commits:  # each is bounded by the journal's `timeout`
                await commit.finished()
        return self._judge(effects, commits, refusable=refusable)

    def secured_blocking(self, effects: Sequence[Effect], *, refusable: bool = False) -> bool:
        """The same, for a thread without event loop."""
        commits = self._kept(effects)
        if self._options.ack == "commit":
            for commit in commits:
                commit.finished_blocking()
        return self._judge(effects, commits, refusable=refusable)

    def void(self, effects: Sequence[Effect]) -> None:
        """These were taken down, and are not to happen; nor is what they stand for."""
        for effect in effects:
            if effect.further:
                self.void(effect.further)
        self._journal.void(effects)

    def holds(self, effect: Effect) -> bool:
        """Whether it, or something that it stands for, is to be on disk."""
        return bool(self._durable((effect,)))

    def _kept(self, effects: Iterable[Effect]) -> list[Commit]:
        """Has those written that are to be on disk, what they stand for included; what all of them are written by."""
        new: list[tuple[Effect, tuple[str, ...]]] = []
        commits: dict[Commit, None] = {}
        for effect, names in self._durable(effects):
            if effect.entry is None:
                new.append((effect, names))
            else:
                commits[effect.entry.commit] = None
        if new and (commit := self._journal.keep(new)):
            commits[commit] = None
        for each in commits:  # the last thing, also where nobody waits: see `Commit`
            each.hurry()
        return list(commits)

    def _judge(self, effects: Iterable[Effect], commits: list[Commit], *, refusable: bool) -> bool:
        """Whether the response may go on. What is not on disk, and is not to be waited for any longer, is in memory."""
        lost = [commit for commit in commits if commit.error is not None]
        if not lost:
            return True
        for effect, _ in self._durable(effects):
            if effect.entry is not None and effect.entry.commit in lost:
                effect.entry = None
        if refusable and self._options.on_failure == "refuse":
            self._journal.refused += 1
            return False
        return True

    def _durable(self, effects: Iterable[Effect]) -> list[tuple[Effect, tuple[str, ...]]]:
        """Those that go to journaled lanes, with these; what they stand for included."""
        found = []
        for effect in effects:
            if effect.event is None:
                continue
            route = self._dispatcher.route_of(type(effect.event))
            if names := self._screened(effect, route) if route.screens else route.names:
                found.append((effect, names))
            if route.fans_out:
                found += self._durable(further(effect))
        return found

    def _screened(self, effect: Effect, route: Route) -> tuple[str, ...]:
        """The journaled lanes whose filters let it pass, or cannot say."""
        if (screened := effect.screened) is None:  # once: a sample is not drawn again
            screened = effect.screened = {lane.name: lane.intake.reason_to_drop(effect) for lane in route.durable}
        return tuple(name for name in route.names if screened[name] in {None, UNDECIDED})


class Passage:
    """One response on its way through the gate.

    Its parts may be sent by several tasks, and any of them may be cancelled while it waits: none passes before what
    was scheduled ahead of it is on disk.
    """

    def __init__(self, scope: Scope, gate: Gate) -> None:
        scope.keep_fresh()
        self._scope = scope
        self._gate = gate
        self._asked: dict[Effect, None] = {}
        """Events that the gate has been asked for."""
        self._coming: dict[Effect, None] = {}
        """Of them, those that nobody has seen on disk yet."""

    def ahead(self, status: int | None, *, starts: bool = False) -> list[Effect]:
        """The events that are to be on disk before the next part leaves; `starts` says that it is the status' own.

        Which of them the response will let happen, its status says: before there is one, it looks like a success.
        """
        if self._scope.inherited or not (starts or self._scope.fresh or self._coming):
            return []
        succeeding = status is None or status < _FIRST_ERROR_STATUS
        effects = self._scope.take_fresh(succeeding=succeeding)
        if starts and self._asked:  # what went by no status, or by another, is decided anew
            self._void("error" if succeeding else "success")
        if starts:
            effects = self._scope.unsecured(succeeded=succeeding)
        return self._take(effects)

    def rest(self, *, succeeded: bool) -> list[Effect]:
        """All that is left, where the server is yet to answer in the app's place."""
        return [] if self._scope.inherited else self._take(self._scope.unsecured(succeeded=succeeded))

    async def secured(self, effects: Sequence[Effect], *, refusable: bool = False) -> bool:
        """Returns when they are on disk, or cannot be; False where the response is refused for that.

        What was to be on disk is void then, but for what waits for a response that fails: this one does.
        """
        return self._judge(effects, passed=await self._gate.secured(effects, refusable=refusable))

    def secured_blocking(self, effects: Sequence[Effect], *, refusable: bool = False) -> bool:
        """The same, for a thread without event loop."""
        return self._judge(effects, passed=self._gate.secured_blocking(effects, refusable=refusable))

    def _take(self, effects: Sequence[Effect]) -> list[Effect]:
        taken = dict.fromkeys(effects)
        self._asked |= taken
        self._coming |= taken
        return list(self._coming)

    def _judge(self, effects: Sequence[Effect], *, passed: bool) -> bool:
        for effect in effects:
            self._coming.pop(effect, None)
        if not passed:
            self._scope.drop([effect for effect in self._asked if effect.when != "error" and self._gate.holds(effect)])
        return passed

    def _void(self, when: str) -> None:
        """Those with that condition were taken down for nothing."""
        void = [effect for effect in self._asked if effect.when == when]
        self._gate.void(void)
        for effect in void:
            del self._asked[effect]
            self._coming.pop(effect, None)
