"""`sidefx dead`, as a person on call meets it: on letters made by hand, and beside an app that runs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from sidefx.events import uuid7
from sidefx.journal.dead import DeadStore
from tests.asgi.probe import eventually
from tests.cli.conftest import Terminal, command, sidefx
from tests.cli.letters import letter

Run = Callable[..., Result]
InTerminal = Callable[..., Terminal]

STEERING = "\x1b[31mred\x9b2J\nforged line\r\t\u202e[bold]markup[/bold]\x00\u2028"


def words(text: str) -> list[str]:
    """The lines, without the spaces between columns."""
    return [" ".join(line.split()) for line in text.splitlines()]


def rows(path: Path) -> list[str]:
    """The names of what is in a folder."""
    return sorted(each.name for each in path.iterdir())


# --- list ---------------------------------------------------------------------------------------------------


@pytest.mark.contract("J10")
def test_the_newest_letters_stand_first(run: Run, store: DeadStore) -> None:
    """A line each, with what there is to know at a glance; how many there are is said beside the table."""
    letters = [letter(i, sink=sink) for i, sink in enumerate(("audit", "email", "audit"))]
    store.add(letters)
    result = run("dead", "list")
    assert result.exit_code == 0
    heading, *lines = words(result.stdout)
    assert heading == "id when sink kind result attempts reason"
    assert lines == [
        f"{each.event_id} {each.at.isoformat(timespec='seconds')} {each.sink} order.placed expired 5 {each.reason}"
        for each in letters
    ]
    assert result.stderr == "3 dead letters\n"


def test_a_list_is_bounded_and_says_so(run: Run, store: DeadStore) -> None:
    """50 unless --limit or --all says otherwise; pages of equal times leave none out and repeat none."""
    letters = [letter(i // 100) for i in range(250)]
    store.add(letters)
    result = run("dead", "list")
    assert len(result.stdout.splitlines()) == 1 + 50
    assert result.stderr == "the newest 50 of 250 dead letters; --limit N or --all lists more\n"
    ids = [line.split()[0] for line in run("dead", "list", "--limit", "101").stdout.splitlines()[1:]]
    assert len(set(ids)) == 101
    everything = run("dead", "list", "--all")
    ids = [line.split()[0] for line in everything.stdout.splitlines()[1:]]
    assert sorted(ids) == sorted(str(each.event_id) for each in letters)
    assert everything.stderr == "250 dead letters\n"
    of_json = run("dead", "list", "--json", "--limit", "2")
    assert len(of_json.stdout.splitlines()) == 2
    assert "the newest 2 of 250" in of_json.stderr  # a pipe is told as well


def test_filters(run: Run, store: DeadStore) -> None:
    """--sink and --kind narrow it down together; where nothing is left, it says what there is."""
    store.add([letter(), letter(sink="email"), letter(sink="email", kind="order.paid")])
    assert words(run("dead", "list", "--sink", "email", "--kind", "order.paid").stdout)[1].split()[2:4] == [
        "email",
        "order.paid",
    ]
    nothing = run("dead", "list", "--sink", "emial")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert nothing.stderr.startswith("no dead letters for emial in ")
    assert nothing.stderr.endswith("; there are, by sink: audit 1, email 2\n")


@pytest.mark.contract("J10")
def test_letters_as_json_lines(run: Run, store: DeadStore) -> None:
    """One object a line with all that is known; the event is JSON within it."""
    one = letter(request_id="r-1", call_site="shop.py:7")
    store.add([one])
    (record,) = map(json.loads, run("dead", "list", "--json").stdout.splitlines())
    assert record == {
        "record": "letter",
        "event_id": str(one.event_id),
        "sink": "audit",
        "kind": "order.placed",
        "result": "expired",
        "attempts": 5,
        "at": one.at.isoformat(),
        "reason": one.reason,
        "error": one.error,
        "request_id": "r-1",
        "call_site": "shop.py:7",
        "event": {"id": str(one.event_id), "number": 0},
    }


@pytest.mark.parametrize(
    "text", ['{"number": 1', '{"n": NaN}', '{"n": 1e999}', "[" * 50_000, '{"n": ' + "9" * 5_000 + "}"]
)
def test_what_is_no_json_is_still_shown(run: Run, store: DeadStore, text: str) -> None:
    """A row that cannot be read, or not be written again, is given as the text that it is."""
    one = letter(text=text)
    store.add([one])
    result = run("dead", "list", "--json")
    record = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (record["event"], record["text"]) == (None, text)
    shown = run("dead", "show", str(one.event_id))
    assert shown.exit_code == 0
    assert text in shown.stdout


@pytest.mark.parametrize("arguments", [("list",), ("show", "ID"), ("list", "--json")])
def test_stored_text_steers_no_terminal(run: Run, store: DeadStore, arguments: tuple[str, ...]) -> None:
    """No control character of an event, or of an error, gets out, none makes a line, and nothing is markup."""
    one = letter(
        **dict.fromkeys(("sink", "kind", "reason", "error", "request_id", "call_site"), STEERING),
        text=json.dumps({STEERING: [STEERING]}),
    )
    store.add([one])
    result = run("dead", *(str(one.event_id) if each == "ID" else each for each in arguments))
    assert result.exit_code == 0
    assert all(character.isprintable() or character == "\n" for character in result.output)
    assert not any(line.startswith("forged") for line in result.output.splitlines())
    assert "[bold]markup[/bold]" in result.stdout


def test_a_pipe_gets_whole_lines(run: Run, store: DeadStore) -> None:
    """Where no terminal is written to, a letter is one line however long it is, and without colour."""
    store.add([letter(reason="x" * 5_000)])
    assert [len(line) > 5_000 for line in run("dead", "list").stdout.splitlines()] == [False, True]


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_gets_lines_that_fit(store: DeadStore, terminal: InTerminal, columns: int) -> None:
    """The reason stands beside the rest, or below it where that would not fit; nothing is wrapped, ids are whole."""
    letters = [letter(i, reason="because " * 50) for i in range(3)]
    store.add(letters)
    called = terminal("dead", "list", columns=columns)
    assert called.end() == 0
    plain = called.shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    heading, *lines, total = plain.splitlines()
    assert heading.startswith("id ")
    assert total == "3 dead letters"
    assert len(lines) == (6 if columns == 80 else 3)
    assert all(len(line) <= columns for line in lines)
    assert [line.split()[0] for line in lines if line[0] != " "] == [str(each.event_id) for each in letters]
    assert [line.endswith("…") for line in lines].count(True) >= 3
    assert "2 min ago" in plain


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, store: DeadStore) -> None:
    """`| head -1` ends quietly."""
    store.add([letter(reason="x" * 500) for _ in range(1_000)])
    line = command("dead", "list", "--all", "--json", "--journal", str(tmp_path / "journal"))
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        assert popen.stderr is not None
        popen.stdout.readline()
        popen.stdout.close()
        assert popen.stderr.read() == ""


def test_a_list_leaves_events_where_they_are(store: DeadStore) -> None:
    """A table reads no event's JSON, which may be megabytes each."""
    store.add([letter()])
    assert [each.text for each in store.newest(texts=False)] == [None]
    assert [each.text for each in store.newest()] != [None]


# --- show ---------------------------------------------------------------------------------------------------


@pytest.mark.contract("J10")
def test_an_event_is_shown_with_all_its_letters(run: Run, store: DeadStore) -> None:
    """Every sink's, with all that is known of it and the event, readable."""
    one = letter(3, request_id="r-1", call_site="shop.py:7", text='{"name": "Zoë", "items": [1]}')
    store.add([one, letter(sink="email", event_id=one.event_id, reason="refused"), letter(reason="another")])
    result = run("dead", "show", str(one.event_id))
    assert result.exit_code == 0
    lines = words(result.stdout)
    assert lines.count(f"event {one.event_id}") == 2
    assert {"sink audit", "sink email", "kind order.placed", "result expired after 5 attempts"} <= {*lines}
    assert {f"reason {one.reason}", "reason refused", "error OSError: connection refused"} <= {*lines}
    assert {"request r-1", "after() at shop.py:7"} <= {*lines}
    assert f"when {one.at:%Y-%m-%d %H:%M:%S} UTC, 3 min ago" in lines
    assert '  {\n    "name": "Zoë",\n    "items": [\n      1\n    ]\n  }\n' in result.stdout
    assert "another" not in result.stdout
    records = [json.loads(line) for line in run("dead", "show", "--json", str(one.event_id)).stdout.splitlines()]
    assert {each["sink"] for each in records} == {"audit", "email"}


def test_the_shown_event_is_json(run: Run, store: DeadStore) -> None:
    """What would steer a terminal is escaped as JSON escapes it: what is shown can be copied and parsed."""
    one = letter(text=json.dumps({"note": STEERING}))
    store.add([one])
    shown = run("dead", "show", str(one.event_id)).stdout
    assert json.loads(shown[shown.index("  {") :]) == {"note": STEERING}


def test_a_letter_without_json(run: Run, store: DeadStore) -> None:
    """It may be dead for just that reason; what is known of it is shown, and that it cannot be replayed."""
    one = letter(text=None)
    store.add([one])
    assert "cannot be replayed" in run("dead", "show", str(one.event_id)).stdout
    assert json.loads(run("dead", "list", "--json").stdout)["event"] is None


def test_an_event_that_is_not_there(run: Run, store: DeadStore) -> None:
    """Exit code 1 and which one; those that are there are shown all the same. A malformed id is wrong usage."""
    one, missing = letter(), uuid7()
    store.add([one])
    result = run("dead", "show", str(missing), str(one.event_id))
    assert result.exit_code == 1
    assert result.stderr == f"no dead letter of event {missing} is here; it may have been replayed, or purged\n"
    assert f"{one.event_id}" in result.stdout
    malformed = run("dead", "show", "01a2-nonsense")
    assert malformed.exit_code == 2
    assert "is not a valid UUID" in malformed.stderr
    assert run("dead", "show").exit_code == 2


# --- which journal ------------------------------------------------------------------------------------------


def test_only_the_journals_table_is_read(run: Run, store: DeadStore) -> None:
    """Sinks are not made: neither their code, nor their libraries, nor their passwords need to be there."""
    store.add([letter()])
    text = (
        '[journal]\npath = "${WHERE:-journal}"\n[runtime]\nnonsense = 1\n'
        '[sinks.audit]\ntype = "not_installed:Sink"\ndsn = "${NOT_SET}"\n'
    )
    assert run("dead", "list", text=text).stderr == "1 dead letter\n"


def test_the_environment_and_the_option_say_where_it_is(
    run: Run, store: DeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable overrides the file; --journal needs no file at all; with --config it contradicts itself."""
    store.add([letter()])
    monkeypatch.setenv("SIDEFX_JOURNAL__PATH", "journal")
    assert run("dead", "list", text='[journal]\npath = "elsewhere"\n').stderr == "1 dead letter\n"
    assert run("dead", "list", "--journal", "journal", text="no TOML").stderr == "1 dead letter\n"
    both = run("--config", "sidefx.toml", "dead", "list", "--journal", "journal")
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)


@pytest.mark.contract("F01")
def test_mistakes_in_the_journals_table(run: Run) -> None:
    """All of its mistakes, as `sidefx check` says them, and those of no other table; exit code 2."""
    text = '[journal]\npath = "${NOT_SET}"\nsynchronus = "FULL"\ntimeout = -1\n[sinks.a]\ntype = "lg"\n'
    result = run("dead", "list", text=text)
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "journal.path",
        "journal.timeout",
        "journal.synchronus",
    ]
    assert "journal: has to be a table" in run("dead", "list", text="journal = 1\n").stderr
    (record,) = map(json.loads, run("dead", "list", "--json", text="journal = 1\n").stdout.splitlines())
    assert (record["record"], record["path"]) == ("problem", "journal")


@pytest.mark.parametrize("what", [("dead", "list"), ("dead", "replay", "--all"), ("journal", "status")])
def test_a_wrong_folder_is_not_taken_for_an_empty_journal(run: Run, tmp_path: Path, what: tuple[str, ...]) -> None:
    """Neither one that is not there nor one that no app has used: exit code 2, what to do, and nothing is made."""
    missing = run(*what)
    assert missing.exit_code == 2
    assert "there is no such directory" in missing.stderr
    assert "--journal" in missing.stderr
    (tmp_path / "journal").mkdir()
    assert "no app has kept a journal in this directory" in run(*what).stderr
    assert rows(tmp_path / "journal") == []
    (tmp_path / "journal").rmdir()
    (tmp_path / "journal").touch()
    assert "is no directory" in run(*what).stderr


def test_looking_leaves_no_trace(run: Run, store: DeadStore, tmp_path: Path) -> None:
    """`list` and `show` make no file and change none."""
    one = letter()
    store.add([one])
    before = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
    run("dead", "list")
    run("dead", "show", str(one.event_id))
    run("dead", "purge", "--older-than", "0s", "--dry-run")
    run("dead", "replay", str(uuid7()))
    assert {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()} == before


def test_another_users_journal_is_not_written_to(
    run: Run, store: DeadStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What root wrote there, the app could not read: exit code 2, with the command to run; looking is allowed."""
    store.add([letter()])
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr("sys.argv", ["/usr/bin/sidefx", "dead", "replay", "--all", "two words"])
    for what in (("replay", "--all"), ("purge", "--older-than", "0s", "--yes")):
        result = run("dead", *what)
        assert result.exit_code == 2
        assert "run this as that user: sudo -u " in result.stderr
        assert result.stderr.endswith(" sidefx dead replay --all 'two words'\n")
    assert rows(tmp_path / "journal") == ["dead.sqlite"]
    assert run("dead", "list").stderr == "1 dead letter\n"


def test_letters_that_cannot_be_read(run: Run, store: DeadStore) -> None:
    """Busy, of another version, or gone: exit code 1 with the reason, never a traceback."""
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        busy = run("dead", "list")
        other.execute("ROLLBACK")
        assert (busy.exit_code, busy.stderr) == (1, "journal: database is locked; a process is writing: try again\n")
        other.execute("PRAGMA user_version = 99")
    other.close()
    newer = run("dead", "replay", "--all")
    assert (newer.exit_code, "of this version" in newer.stderr) == (1, True)
    store.path.unlink()
    (store.path.parent / "0.sqlite").touch()  # there is a journal, but no letters
    assert run("dead", "list").exit_code == 1
    assert json.loads(run("dead", "list", "--json").stdout)["record"] == "problem"


# --- purge --------------------------------------------------------------------------------------------------


@pytest.mark.contract("J10")
@pytest.mark.parametrize(
    ("length", "left"), [("30s", 0), ("90min", 2), ("2 h", 2), ("0.1d", 3), ("1w", 4), ("1.5h", 2), ("0s", 0)]
)
def test_old_letters_are_purged(run: Run, store: DeadStore, length: str, left: int) -> None:
    """Those that are older than that are deleted for good; how many is said."""
    store.add([letter(minutes) for minutes in (1, 60, 140, 1_440)])
    result = run("dead", "purge", "--older-than", length)
    assert result.exit_code == 0
    noun = "dead letter" if left == 3 else "dead letters"
    assert result.stdout == f"{4 - left} {noun} older than {length} deleted\n"
    assert len(store.letters()) == left


def test_a_purge_is_narrowed_down(run: Run, store: DeadStore) -> None:
    """By sink and kind; a dry run deletes nothing, and both say the same number."""
    store.add([letter(1), letter(1, sink="email"), letter(1, sink="email", kind="order.paid")])
    narrow = ("dead", "purge", "--older-than", "1s", "--sink", "email", "--kind", "order.paid")
    dry = run(*narrow, "--dry-run")
    assert dry.stdout == "1 dead letter older than 1s of kind order.paid for email; nothing is deleted\n"
    assert len(store.letters()) == 3
    (record,) = map(json.loads, run(*narrow, "--json").stdout.splitlines())
    assert (record["record"], record["found"], record["purged"]) == ("purge", 1, 1)
    assert datetime.now(UTC) - datetime.fromisoformat(record["before"]) > timedelta(seconds=1)
    assert {each.kind for each in store.letters()} == {"order.placed"}


@pytest.mark.parametrize(
    "length", ["", "30", "d", "-1d", "30 days", "1e9d", "\x1b[31m1d", "٣d", "9" * 400 + "w", "999999999w"]
)
def test_a_length_of_time_that_is_none(run: Run, store: DeadStore, length: str) -> None:
    """Exit code 2, with how it is written, and nothing is deleted; the same without one."""
    store.add([letter(1)])
    result = run("dead", "purge", f"--older-than={length}")
    assert result.exit_code == 2
    assert "--older-than" in result.stderr
    assert "\x1b" not in result.stderr
    assert run("dead", "purge").exit_code == 2
    assert len(store.letters()) == 1


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_a_terminal_is_asked_before_anything_is_deleted(
    store: DeadStore, terminal: InTerminal, answer: str, left: int
) -> None:
    """Only yes is yes; anything else deletes nothing and ends with 1."""
    store.add([letter(1)])
    called = terminal("dead", "purge", "--older-than", "1s")
    called.answer("Delete 1 dead letter older than 1s, for good? [y/N]:", answer)
    assert called.end() == left
    assert len(store.letters()) == left


def test_a_terminal_is_not_asked_where_it_has_said_yes(store: DeadStore, terminal: InTerminal) -> None:
    """--yes, a dry run, and nothing to delete need no answer."""
    for arguments in (("--yes",), ("--dry-run",), ()):
        store.add([letter(1)] if arguments else [])
        called = terminal("dead", "purge", "--older-than", "1s", *arguments)
        assert called.end() == 0, called.shown
        store.purge(before=datetime.now(UTC))


# --- beside an app that runs, for the rest see test_replay.py ------------------------------------------------


@pytest.mark.contract("J10", "L11")
def test_what_an_app_has_given_up_is_seen_while_it_runs(shop: Any, tmp_path: Path) -> None:
    """Listed, shown as its sink would have seen it, and purged, without a line of the app's code."""
    shop.refuse()
    shop.order(3)
    shop.letters(3)
    listed = sidefx(tmp_path, "dead", "list", "--json")
    assert [each["event"]["number"] for each in listed.records] == [2, 1, 0]
    shown = sidefx(tmp_path, "dead", "show", listed.records[0]["event_id"])
    assert shown.exit_code == 0
    assert "the warehouse has burnt \\x1b[31mdown\\nentirely" in shown.stdout
    assert '"password": "[redacted]"' in shown.stdout
    assert "hunter2" not in listed.stdout + shown.stdout
    assert sidefx(tmp_path, "dead", "purge", "--older-than", "0s").exit_code == 0
    eventually(lambda: not shop.store.counts())
