"""The log sink: JSON Lines to a file or a stream."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidefx import Event, PartialError, PermanentError, SinkStartError, TransientError, audit, track
from sidefx.request import Headers, RequestInfo
from sidefx_sinks.log import Log


class LogSample(Event, kind="log_test.sample"):
    text: str = ""
    value: Any = None


NASTY = 'a\nb\r\x85\u2028\u2029\x1b[31m\x9b31m\0 "quoted" \\ 😀'


def records(text: str) -> list[dict[str, Any]]:
    """Every line, as a reader of JSON Lines takes it."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_each_event_is_one_line_on_the_stream(stream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the kind and all that the event's JSON has; the other stream stays empty."""
    events = [audit("order.create", actor="alice", metadata={"price": Decimal("1.20")}), track("Seen", user_id=7)]

    with Log(stream=stream) as log:
        log.send_batch(events)

    captured = capsys.readouterr()
    other = "stdout" if stream == "stderr" else "stderr"
    written = {"stdout": captured.out, "stderr": captured.err}
    assert written[other] == ""
    assert records(written[stream]) == [{"kind": event.kind, **event.model_dump(mode="json")} for event in events]
    assert records(written[stream])[0]["metadata"] == {"price": "1.20"}


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Without settings the lines stay out of a program's output."""
    with Log() as log:
        log.send_batch([LogSample()])

    captured = capsys.readouterr()
    assert (captured.out, len(records(captured.err))) == ("", 1)


def test_no_value_breaks_a_line_or_steers_a_terminal(tmp_path: Path) -> None:
    """Line breaks of every alphabet and control characters are escaped, and read back as they were."""
    path = tmp_path / "events.jsonl"
    with Log(path=str(path)) as log:
        log.send_batch([LogSample(text=NASTY, value={NASTY: "\ud800"}), LogSample(text="next")])

    raw = path.read_bytes()
    assert raw.count(b"\n") == 2
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in raw)
    first, second = records(raw.decode())
    assert (first["text"], first["value"]) == (NASTY, {NASTY: "\ud800"})
    assert second["text"] == "next"


def test_a_file_is_created_for_its_owner_and_appended_to(tmp_path: Path) -> None:
    """A new file has mode 0600; what it held stays, over a restart as well."""
    path = tmp_path / "events.jsonl"
    for text in ("one", "two"):
        with Log(path=str(path)) as log:
            log.send_batch([LogSample(text=text)])

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [record["text"] for record in records(path.read_text())] == ["one", "two"]


def test_lines_are_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    """Nothing waits in a buffer that a crash would lose."""
    path = tmp_path / "events.jsonl"
    with Log(path=str(path)) as log:
        log.send_batch([LogSample(text="now")])
        assert [record["text"] for record in records(path.read_text())] == ["now"]


def test_concurrent_batches_do_not_mix(tmp_path: Path) -> None:
    """Each batch is one write: lines of several threads and sinks stay whole, a batch's side by side."""
    path = tmp_path / "events.jsonl"
    together = threading.Barrier(4)

    def write(worker: int) -> None:
        with Log(path=str(path)) as log:
            together.wait(30)
            for n in range(20):
                log.send_batch([LogSample(text="x" * 500, value=[worker, n])] * 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    values = [record["value"] for record in records(path.read_text())]
    assert len(values) == 400
    assert all(len({tuple(value) for value in values[start : start + 5]}) == 1 for start in range(0, 400, 5))


def test_no_header_cookie_or_query_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the request the line has the allow-list that is stored everywhere."""
    request = RequestInfo(
        request_id="r1", path="/orders", headers=Headers([("authorization", "s3cret")]), cookies={"sid": "s3cret"}
    )
    with Log() as log:
        log.send_batch([LogSample(request=request)])

    [record] = records(written := capsys.readouterr().err)
    assert record["request"]["path"] == "/orders"
    assert "s3cret" not in written


def test_an_event_without_json_form_is_rejected_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named with a permanent error; the rest of the batch is written."""
    bad, good = LogSample(value=object()), LogSample(text="good")

    with Log() as log, pytest.raises(PartialError) as caught:
        log.send_batch([bad, good])

    assert {id_: type(error) for id_, error in caught.value.failures.items()} == {bad.id: PermanentError}
    assert [record["text"] for record in records(capsys.readouterr().err)] == ["good"]


def test_a_missing_directory_is_found_at_the_start(tmp_path: Path) -> None:
    """A file that cannot be opened is a mistake in the configuration, and named as one."""
    path = tmp_path / "missing" / "events.jsonl"
    with pytest.raises(SinkStartError, match="its directory must exist") as caught, Log(path=str(path)):
        pass
    assert str(path) in str(caught.value)


def test_a_full_disk_is_transient() -> None:
    """What cannot be written is to be tried again."""
    with Log(path="/dev/full") as log, pytest.raises(TransientError, match="No space left on device"):
        log.send_batch([LogSample()])


def test_a_line_cut_short_does_not_swallow_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in mid-line costs that line alone; the retry starts on a line of its own."""
    path, event, write = tmp_path / "events.jsonl", LogSample(text="whole"), os.write
    answers = iter([lambda fd, data: write(fd, data[:10]), _no_space, write])

    def fills_up(fd: int, data: bytes) -> int:
        return next(answers)(fd, data)

    with Log(path=str(path)) as log:
        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(TransientError):
            log.send_batch([event])
        log.send_batch([event])

    half, whole = path.read_text().splitlines()
    assert len(half) == 10
    assert json.loads(whole)["text"] == "whole"


def _no_space(fd: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("replacement", [None, "closed"])
def test_a_stream_that_is_gone_is_transient(replacement: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a standard error, or with a closed one, gets an error that says so."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if replacement else None)

    with Log() as log, pytest.raises(TransientError, match="cannot write to stderr: it is closed"):
        log.send_batch([LogSample()])
