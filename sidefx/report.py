"""The one place where failures show: the log, the dead letters and the observers."""

from __future__ import annotations

import logging
import textwrap
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from sidefx.dead_letters import DeadLetter, LettersInMemory
from sidefx.errors import SidefxError
from sidefx.settled import CALLABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidefx.dead_letters import DeadLetters
    from sidefx.settled import Observer, Settled

_log = logging.getLogger("sidefx")
_ERROR_CHARACTERS = 500
_TRACEBACK_CHARACTERS = 20_000
_DROPS_LOGGED_EVERY = 10.0
"""Seconds between two log lines about the same kind of drop."""
_NAMES_LISTED = 20


def one_line(text: object, limit: int = _ERROR_CHARACTERS) -> str:
    """The text as one bounded line, with control characters escaped, so that it cannot forge a log line."""
    cut = _text(text)
    cut = cut if len(cut) <= limit else f"{cut[:limit]}… ({len(cut):,} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is, is one all the same
        return "(its text cannot be shown)"


def summary_of(error: BaseException) -> str:
    """The error's type and message in one line."""
    message = one_line(error)
    return f"{type(error).__qualname__}: {message}" if message else type(error).__qualname__


def indented_traceback(error: BaseException) -> str:
    """The traceback on lines of its own, every one indented: a line break in a message cannot look like a new record.

    Empty for an error that a sink or sidefx has raised on purpose: its message says it all.
    """
    if isinstance(error, SidefxError):
        return ""
    try:
        text = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:]
    except Exception:  # noqa: BLE001 - its notes or its causes may be properties that raise
        text = "(its traceback cannot be shown)"
    lines = (one_line(line, limit=2_000) for line in text.splitlines())
    return "\n" + textwrap.indent("\n".join(lines), "    ")


def _place(sink: str) -> str:
    return sink if sink == CALLABLES else f"sinks.{sink}"


def _whereabouts(settled: Settled) -> str:
    known = {
        "event": None if settled.event is None else settled.event.id,
        "request": settled.request_id,
        "after() at": settled.call_site,
    }
    text = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    return one_line(f" [{text}]") if text else ""  # escaped, for a request id may be of a user's own making


def _show_failure(what: str, error: BaseException) -> None:
    try:
        _log.error("%s failed: %s%s", one_line(what), summary_of(error), indented_traceback(error))
    except Exception:  # noqa: BLE001 - it was the log itself that failed
        traceback.print_exc()


class Reporter:
    """Takes the `Settled` records of every lane."""

    def __init__(self, dead_letters: DeadLetters, observers: Iterable[Observer] = ()) -> None:
        self.dead_letters = dead_letters
        self._observers = tuple(observers)
        self._drops: dict[tuple[str, str], tuple[float, int]] = {}
        self._left_over: Counter[tuple[str, str]] = Counter()
        self._kept: dict[str, int] = {}

    @property
    def observes(self) -> bool:
        """Whether anybody wants to hear of what went well."""
        return bool(self._observers)

    def report(
        self, settled: Settled, *, with_traceback: bool = False, then: Callable[[], object] | None = None
    ) -> None:
        """Shows the record wherever it belongs, and calls `then` once its dead letter is safe; raises nothing."""
        if settled.result in {"rejected", "expired"}:
            self._bury(settled, then)
        try:
            self._log_end(settled, with_traceback=with_traceback)
        except Exception as error:  # noqa: BLE001 - a handler or filter of the app's log
            _show_failure("the log", error)
        for observer in self._observers:
            try:
                observer(settled)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - contained: an observer must not hurt a lane
                # by its name, for its repr may show anything
                _show_failure(f"observer {getattr(observer, '__qualname__', type(observer).__qualname__)}", error)

    def failing(self, sink: str, error: BaseException, attempt: int, attempts: int) -> None:
        """The first of a row of failed attempts, which will be tried again."""
        _log.warning(
            "sinks.%s: attempt %d of %d failed, will retry: %s%s",
            sink,
            attempt,
            attempts,
            summary_of(error),
            indented_traceback(error),
        )

    def opened(self, sink: str, reset: float, error: BaseException) -> None:
        """The sink's breaker has opened."""
        _log.warning(
            "sinks.%s: breaker open, events wait; the next attempt is in %g s: %s", sink, reset, summary_of(error)
        )

    def recovered(self, sink: str) -> None:
        """A sink that failed works again."""
        _log.info("sinks.%s: works again", sink)

    def list_left_over(self) -> None:
        """Lists what the runtime had to leave when it stopped, by sink and name."""
        if self._left_over:
            # `most_common()` imports something, which fails where the interpreter is just ending
            most = sorted(self._left_over.items(), key=lambda counted: counted[1], reverse=True)[:_NAMES_LISTED]
            listed = [f"{_place(sink)}: {name} × {n}" for (sink, name), n in most]
            if more := len(self._left_over) - len(listed):
                listed.append(f"and {more:,} more names")
            listing = ", ".join(listed)
            _log.error("%d effect(s) were not finished at shutdown and are lost: %s", self._left_over.total(), listing)
            self._left_over.clear()

    def kept(self, sink: str, count: int) -> None:
        """The runtime has stopped with so many events of that lane in the journal."""
        if self._kept.get(sink) == count:
            return
        self._kept[sink] = count
        _log.warning(
            "sinks.%s: %d event(s) stay in the journal; a running process, or the next one, takes them", sink, count
        )

    def fault(self, sink: str, error: BaseException) -> None:
        """Something of ours has failed in that lane, which goes on; raises nothing."""
        _show_failure(f"{_place(sink)}: sidefx itself", error)

    def ended(self) -> None:
        """The runtime has stopped, and what was in memory ends with it."""
        self.list_left_over()
        if isinstance(self.dead_letters, LettersInMemory) and self.dead_letters:
            _log.warning("%d dead letter(s) were in memory only and end with this process", len(self.dead_letters))
        self._kept.clear()

    def _log_end(self, settled: Settled, *, with_traceback: bool) -> None:
        if settled.result in {"rejected", "expired"}:
            self._log_failure(settled, with_traceback=with_traceback)
        elif settled.result == "dropped":
            self._log_drop(settled)

    def _log_failure(self, settled: Settled, *, with_traceback: bool) -> None:
        _log.error(
            "%s: %s %s%s: %s%s%s",
            _place(settled.sink),
            one_line(settled.name),
            settled.result,
            f" after {settled.attempts} attempts" if settled.attempts > 1 else "",
            settled.reason,
            _whereabouts(settled),
            indented_traceback(settled.error) if with_traceback and settled.error is not None else "",
        )

    def _log_drop(self, settled: Settled) -> None:
        """What a policy in the configuration asks for is counted only; what is lost is logged, now and then."""
        if settled.reason in {"filtered", "sampled"}:
            return
        if settled.reason == "shutdown":
            self._left_over[settled.sink, one_line(settled.name, 100)] += 1
            return
        now = time.monotonic()
        last, unlogged = self._drops.get((settled.sink, settled.reason), (-_DROPS_LOGGED_EVERY, 0))
        if now - last < _DROPS_LOGGED_EVERY:
            self._drops[settled.sink, settled.reason] = (last, unlogged + 1)
            return
        self._drops[settled.sink, settled.reason] = (now, 0)
        _log.error(
            "%s: %s dropped (%s)%s%s",
            _place(settled.sink),
            one_line(settled.name),
            settled.reason,
            f", and {unlogged:,} more since the last such line" if unlogged else "",
            _whereabouts(settled),
        )

    def _bury(self, settled: Settled, then: Callable[[], object] | None) -> None:
        if settled.event is None:  # a function cannot be written down
            if then is not None:
                then()
            return
        self.dead_letters.add(
            DeadLetter(
                sink=settled.sink,
                event=settled.event,
                result="rejected" if settled.result == "rejected" else "expired",
                reason=settled.reason,
                error="" if settled.error is None else summary_of(settled.error),
                attempts=settled.attempts,
                call_site=settled.call_site,
                request_id=settled.request_id,
            ),
            then,
        )
