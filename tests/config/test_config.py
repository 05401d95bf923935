"""`sidefx.config.load`: from a file and the environment to sinks, or to every mistake at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, HttpUrl, SecretStr

from sidefx import (
    AuditEvent,
    ConfigError,
    Event,
    JournalOptions,
    RetryOptions,
    RuntimeOptions,
    SideEffects,
    SinkOptions,
    SinkStartError,
)
from sidefx.config import Config, load

SECRET = "hunter2-is-the-password"

Write = Callable[[str], Path]


class OrderPaid(Event, kind="config.paid"):
    total: int


class OrderSent(Event, kind="config.sent"):
    parcel: str


class Slack:
    def __init__(
        self,
        *,
        webhook: HttpUrl,
        channel: str = "#ops",
        token: SecretStr | None = None,
        level: Literal["low", "high"] = "low",
        limits: list[int] | int = 3,
        schema: str = "named as a method of pydantic's models is",
        on_error: Callable[[], None] | None = None,
    ) -> None:
        if channel == "#closed" or channel.startswith("postgresql:"):
            msg = f"channel: cannot use {channel!r}, nor '{channel[4:12]}'"
            raise ValueError(msg)
        if channel == "#broken":
            msg = "out of order"
            raise RuntimeError(msg)
        self.given = {"webhook": webhook, "channel": channel, "token": token, "level": level, "limits": limits}
        self.schema, self.on_error = schema, on_error

    async def send(self, event: OrderPaid) -> None: ...


@dataclass(kw_only=True)
class Mailbox:
    host: str
    port: int = 25
    tags: list[str] = field(default_factory=lambda: ["a default"])
    greeting: InitVar[str] = "hello"

    def __post_init__(self, greeting: str) -> None:
        self.greeted = greeting

    async def send_batch(self, events: Sequence[OrderPaid | OrderSent]) -> None: ...


async def record(event: AuditEvent) -> None:
    """A sink that is a function."""


class Taken:
    def __init__(self, *, timeout: float = 1.0) -> None: ...
    async def send(self, event: OrderPaid) -> None: ...


class Unannotated:
    def __init__(self, *, url) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
    async def send(self, event: OrderPaid) -> None: ...


class SecretKeeper:
    def __init__(self, *, password: str) -> None:
        msg = f"cannot log in with {password}"
        raise SinkStartError(msg)

    async def send(self, event: OrderPaid) -> None: ...


HERE = __name__
SLACK = f'type = "{HERE}:Slack"\nwebhook = "https://chat.example/hook"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration file and gives its path."""

    def write_file(text: str) -> Path:
        path = tmp_path / "sidefx.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def mistakes(write: Write) -> Callable[[str], dict[str, str]]:
    """The problems of a file, as path to the rest of the line."""

    def mistakes_in(text: str) -> dict[str, str]:
        with pytest.raises(ConfigError) as raised:
            load(write(text))
        lines = [str(problem) for problem in raised.value.problems]
        assert str(raised.value).splitlines()[1:] == [f"  {line}" for line in lines]
        return dict(line.split(": ", 1) for line in lines)

    return mistakes_in


@pytest.mark.contract("F04")
def test_a_constructors_parameters_are_the_settings(write: Write) -> None:
    """Settings arrive coerced to the annotations, and what is left out has the constructor's own default."""
    config = load(write(f'[sinks.ops]\n{SLACK}limits = ["1", 2]\ntoken = "t"\n'))
    sink = config.sinks["ops"]
    assert isinstance(sink, Slack)
    assert sink.given == {
        "webhook": HttpUrl("https://chat.example/hook"),
        "channel": "#ops",
        "token": SecretStr("t"),
        "level": "low",
        "limits": [1, 2],
    }
    assert config.types == {"ops": f"{HERE}:Slack"}


@pytest.mark.contract("F04")
def test_a_dataclass_is_a_sink_type(write: Write) -> None:
    """A dataclass's fields are settings, its `InitVar`s included."""
    sinks = load(write(f'[sinks.m]\ntype = "{HERE}:Mailbox"\nhost = "h"\nport = "2525"\ngreeting = "hi"\n')).sinks
    assert sinks == {"m": Mailbox(host="h", port=2525)}
    assert getattr(sinks["m"], "greeted") == "hi"  # noqa: B009


def test_a_function_is_a_sink_itself(write: Write, mistakes: Callable[[str], dict[str, str]]) -> None:
    """`module:function` is the sink, and takes no settings."""
    assert load(write(f'[sinks.f]\ntype = "{HERE}:record"\n')).sinks == {"f": record}
    found = mistakes(f'[sinks.f]\ntype = "{HERE}:record"\nurl = "x"\n')
    assert found["sinks.f.url"].startswith("unknown key")


def test_a_parameter_that_toml_cannot_say_is_for_code_alone(mistakes: Callable[[str], dict[str, str]]) -> None:
    """A callable with a default is no setting."""
    assert mistakes(f'[sinks.ops]\n{SLACK}on_error = "os:getcwd"\n')["sinks.ops.on_error"].startswith("unknown key")


def test_lane_options_and_runtime_options(write: Write) -> None:
    """Tables of options are made into the frozen records that code uses too."""
    config = load(
        write(
            "[runtime]\ndrain_timeout = 3\ncallables = { concurrency = 4 }\n"
            f'[sinks.ops]\n{SLACK}timeout = 2\nretry = {{ attempts = 2 }}\nevents = ["config.*"]\n'
            'rate_limit = "5/min"\n'
        )
    )
    options = config.options["ops"]
    assert (options.timeout, options.retry, options.events) == (2.0, RetryOptions(attempts=2), ("config.*",))
    assert str(options.rate_limit) == "5/min"
    assert (config.runtime.drain_timeout, config.runtime.callables.concurrency) == (3.0, 4)


def test_an_empty_file_is_a_configuration(write: Write) -> None:
    """Without sinks there is nothing wrong: callables need none."""
    config = load(write(""))
    assert (config.sinks, config.options) == ({}, {})


def test_from_toml_takes_the_file(write: Write) -> None:
    """`SideEffects.from_toml` has the sinks of the file, and raises its mistakes."""
    SideEffects.from_toml(write(f"[sinks.ops]\n{SLACK}"))
    with pytest.raises(ConfigError, match=r"sinks\.ops\.webhook: is required"):
        SideEffects.from_toml(write(f'[sinks.ops]\ntype = "{HERE}:Slack"\n'))


@pytest.mark.contract("F01")
def test_every_mistake_in_one_go(mistakes: Callable[[str], dict[str, str]]) -> None:
    """Schema, substitution, types, settings, constructors and routes are all reported together."""
    found = mistakes(f"""
        tracing = true
        [runtme]
        [runtime]
        drain_timeout = -1
        callables = {{ concurency = 3 }}
        [sinks.a]
        type = "{HERE}:Slack"
        webhook = "no address"
        chanel = "#ops"
        timeout = 20
        deadline = 3
        retry = {{ attempts = "many", inital = 1 }}
        rate_limit = "often"
        events = ["config.piad", "audit", "config.*"]
        redact = ["totl"]
        fallback = "b"
        [sinks.b]
        type = "{HERE}:Slack"
        webhook = "https://chat.example/${{SIDEFX_TEST_UNSET}}"
        batch = {{ max_events = 3 }}
        fallback = "a"
        [sinks.c]
        type = "{HERE}:Slack"
        webhook = "https://chat.example/"
        channel = "#closed"
        fallback = "nobody"
        [sinks.d]
        type = "audit_lg"
        [sinks.e]
        [sinks.f]
        type = "{HERE}:Slak"
        [sinks.F]
        type = "{HERE}:record"
    """)
    assert found == {
        "tracing": "unknown key; known: journal, runtime, sinks",
        "runtme": "unknown table; did you mean 'runtime'?",
        "runtime.drain_timeout": "Input should be greater than 0",
        "runtime.callables.concurency": "unknown key; did you mean 'concurrency'?",
        "sinks.a": "timeout (20 s, one attempt) is longer than deadline (3 s, all attempts)",
        "sinks.a.webhook": "Input should be a valid URL, relative URL without a base",
        "sinks.a.chanel": "unknown key; did you mean 'channel'?",
        "sinks.a.retry.attempts": "Input should be a valid integer, unable to parse string as an integer",
        "sinks.a.retry.inital": "unknown key; did you mean 'initial'?",
        "sinks.a.rate_limit": "a rate is written as '50/s', '5/min' or '100/h'",
        "sinks.a.events[0]": "matches no kind of event that is known; did you mean 'config.paid'?",
        "sinks.a.events[1]": "the sink does not accept the kind; it accepts: config.paid",
        "sinks.a.redact[0]": "no event of this sink has 'totl' there; did you mean 'total'?",
        "sinks.a.fallback": "the fallbacks go in a circle: a → b → a; let one of them have no fallback",
        "sinks.b.webhook": "the environment variable SIDEFX_TEST_UNSET is not set; "
        "set it, or write a default as in '${NAME:-default}'",
        "sinks.b.batch": "the sink takes one event at a time (it has `send`, not `send_batch`); remove `batch`",
        "sinks.c": "channel: cannot use '***', nor '***'",
        "sinks.c.fallback": "no sink has that name; known: F, a, b, d, e, f",
        "sinks.d.type": "no installed package publishes a sink type of that name; did you mean 'audit_log'?",
        "sinks.e.type": "is required; known: analytics, audit_log, cache, email, log, webhook, or 'module:Name'",
        "sinks.f.type": f"'{HERE}' has no 'Slak'; did you mean 'Slack'?",
        "sinks.F": "is no name for a sink: environment variables cannot address it; "
        "use lower-case letters and digits, with single underscores between",
    }


@pytest.mark.contract("F01")
@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        (
            f'[sinks.a]\n{SLACK}delivery = "outbox"',
            "sinks.a.delivery",
            "delivery 'outbox' is not available in this version; use 'memory' or 'journal'",
        ),
        (f'[sinks.a]\n{SLACK}delivery = "disk"', "sinks.a.delivery", "Input should be 'memory'"),
        ("sinks = 3", "sinks", "has to be a table; write [sinks.NAME]"),
        ("runtime = []", "runtime", "has to be a table; write [runtime]"),
        ("[sinks]\na = 3", "sinks.a", "has to be a table; write [sinks.NAME]"),
        ("[[sinks.a]]", "sinks.a", "has to be a table; write [sinks.NAME]"),
        ("[Sinks.a]", "Sinks", "unknown table; did you mean 'sinks'?"),
        ("[sinks.a]\ntype = 3", "sinks.a.type", "has to be a string"),
        (f'[sinks.a]\n{SLACK}level = "mid"', "sinks.a.level", "Input should be 'low' or 'high'"),
        (
            f'[sinks.a]\n{SLACK}limits = "x"',
            "sinks.a.limits",
            "Input should be a valid list or Input should be a valid integer, unable to parse string as an integer",
        ),
        (f"[sinks.a]\n{SLACK}limits = [1, []]", "sinks.a.limits[1]", "Input should be a valid integer"),
        (f'[sinks.a]\n{SLACK}channel = "#broken"', "sinks.a", "the constructor failed: RuntimeError: out of order"),
        (f'[sinks.a]\n{SLACK}filter = "os:nothing"', "sinks.a.filter", "Invalid python path: cannot import name"),
        (
            f'[sinks.a]\ntype = "{HERE}:Taken"',
            "sinks.a.type",
            "Taken: its parameter 'timeout' has the name of a lane option; rename it",
        ),
        (f'[sinks.a]\ntype = "{HERE}:Unannotated"', "sinks.a.type", "Unannotated: its parameter 'url' cannot be given"),
        ('[sinks.a]\ntype = "json:JSONDecoder"', "sinks.a.type", "JSONDecoder is no sink: give it `async def send"),
        ('[sinks.a]\ntype = "sidefx:AuditEvent"', "sinks.a.type", "AuditEvent is no sink: give it `async def send"),
        (f'[sinks.a]\n{SLACK}events = "audit"', "sinks.a.events", "has to be a list; write it in brackets"),
        ('[sinks.a]\ntype = "builtins:int"', "sinks.a.type", "int"),
    ],
)
def test_each_mistake_has_its_path_and_its_reason(
    mistakes: Callable[[str], dict[str, str]], text: str, path: str, line: str
) -> None:
    """What is wrong stands at the key that is wrong, in words that say what to write."""
    found = mistakes(text)
    assert list(found) == [path]
    assert found[path].startswith(line)


@pytest.mark.contract("F01")
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a = ", "is not TOML: Invalid value (at end of document)"),
        (b"[sinks.a]\nx = 1\n[sinks.a]\n", ":3:9: is not TOML: Cannot declare ('sinks', 'a') twice"),
        (b"x = 1\nx = 2\n", ":2:6: is not TOML: Cannot overwrite a value"),
        (b'x = "\xff"', "is not UTF-8, at byte 5; save it as UTF-8"),
        (b"a = " + b"[" * 5000, "tables or arrays are nested too deeply"),
        (b"a = " + b"1" * 5000, "is not TOML: Exceeds the limit"),
    ],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, line: str) -> None:
    """A syntax error, two tables of one name included, is one problem with file, line and column."""
    path = tmp_path / "sidefx.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load(path)
    (problem,) = raised.value.problems
    assert str(problem).startswith(str(path))
    assert line in str(problem)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file, and a directory, say what to do."""
    with pytest.raises(ConfigError, match="there is no such file; create it, or name another with --config"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is no file"):
        load(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that nobody can read from: /proc/self/mem")
def test_a_file_that_cannot_be_read() -> None:
    """An I/O error, as a lack of permission would be, is a problem and not a traceback."""
    with pytest.raises(ConfigError, match="/proc/self/mem: cannot be read: Input/output error; check"):
        load("/proc/self/mem")


@pytest.mark.contract("F02")
def test_the_environment_overrides_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SIDEFX_SINKS__NAME__KEY` and `SIDEFX_RUNTIME__KEY` win, at any depth; numbers and lists are coerced."""
    for name, value in {
        "SIDEFX_SINKS__OPS__CHANNEL": "#late",
        "SIDEFX_SINKS__OPS__TOKEN": "123",
        "SIDEFX_SINKS__OPS__LIMITS": "[4, 5]",
        "SIDEFX_SINKS__OPS__SCHEMA": '["a text", "that looks like JSON"]',
        "SIDEFX_SINKS__OPS__EVENTS": '["config.paid"]',
        "SIDEFX_SINKS__OPS__RETRY__ATTEMPTS": "9",
        "SIDEFX_SINKS__OPS__BREAKER": '{"failures": 2}',
        "SIDEFX_SINKS__FROM_ENV__TYPE": f"{HERE}:record",
        "SIDEFX_RUNTIME__CALLABLES__TIMEOUT": "1.5",
    }.items():
        monkeypatch.setenv(name, value)
    config = load(write(f'[sinks.ops]\n{SLACK}channel = "#ops"\nretry = {{ attempts = 2, initial = 0.5 }}\n'))
    sink, options = config.sinks["ops"], config.options["ops"]
    assert isinstance(sink, Slack)
    assert (sink.given["channel"], sink.given["limits"], sink.given["token"]) == ("#late", [4, 5], SecretStr("123"))
    assert sink.schema == '["a text", "that looks like JSON"]'
    assert (options.retry, options.events) == (RetryOptions(attempts=9, initial=0.5), ("config.paid",))
    assert options.breaker.failures == 2
    assert config.sinks["from_env"] is record
    assert config.runtime.callables.timeout == 1.5


@pytest.mark.contract("F02")
def test_a_wrong_value_from_the_environment_names_the_variable(
    mistakes: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file does not have the value, so the problem says where it came from, and not what it is."""
    monkeypatch.setenv("SIDEFX_SINKS__OPS__RETRY__MAX", SECRET)
    monkeypatch.setenv("SIDEFX_SINKS__OPS__WEBHOOKS", SECRET)
    monkeypatch.setenv("SIDEFX_SINKS__OPS__EVENTS", '["unclosed"')
    found = mistakes(f"[sinks.ops]\n{SLACK}")
    assert found["sinks.ops.retry.max"].endswith("(set by SIDEFX_SINKS__OPS__RETRY__MAX)")
    assert "(set by SIDEFX_SINKS__OPS__WEBHOOKS); did you mean 'webhook'?" in found["sinks.ops.webhooks"]
    assert "has to be a list (set by SIDEFX_SINKS__OPS__EVENTS)" in found["sinks.ops.events"]
    assert SECRET not in str(found)


@pytest.mark.contract("F02")
def test_an_overridden_reference_need_not_be_set(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment gives the setting itself, the file's `${NAME}` is not looked up."""
    monkeypatch.setenv("SIDEFX_SINKS__OPS__CHANNEL", "${LITERAL}")
    config = load(write(f'[sinks.ops]\n{SLACK}channel = "${{SIDEFX_TEST_UNSET}}"\n'))
    sink = config.sinks["ops"]
    assert isinstance(sink, Slack)
    assert sink.given["channel"] == "${LITERAL}"


@pytest.mark.contract("F02")
def test_a_substituted_value_is_coerced_and_cannot_inject_settings(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number may come from a variable; quotes and line breaks in one stay in the value."""
    monkeypatch.setenv("SIDEFX_TEST_PORT", "2525")
    monkeypatch.setenv("SIDEFX_TEST_HOST", 'h"\nport = 1\n[sinks.evil]\ntype = "log')
    config = load(
        write(f'[sinks.m]\ntype = "{HERE}:Mailbox"\nport = "${{SIDEFX_TEST_PORT}}"\nhost = "${{SIDEFX_TEST_HOST}}"\n')
    )
    assert config.sinks == {"m": Mailbox(host=os.environ["SIDEFX_TEST_HOST"], port=2525)}


@pytest.mark.contract("F03")
@pytest.mark.parametrize(
    "key",
    [
        *(f"sinks.a.{name}" for name in sorted(SinkOptions.model_fields) if name not in {"filter", "fallback"}),
        *("sinks.a.retry.max", "sinks.a.batch.linger", "sinks.a.buffer.when_full", "sinks.a.rate_limit.calls"),
        *("sinks.a.webhook", "sinks.a.level", "sinks.a.limits", "sinks.a.unknown", "sinks.a.type", "sinks.a.fallback"),
        *("runtime.drain_timeout", "runtime.callables", "runtime.callables.timeout", "unknown", "sinks", "sinks.a"),
    ],
)
def test_a_wrong_value_is_never_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A secret in the wrong place shows in no message, whether from the file, a variable or the environment."""
    table, _, name = key.rpartition(".")
    path = tmp_path / "sidefx.toml"
    base = f"[sinks.ok]\n{SLACK}" if key in {"sinks", "sinks.a"} else f"[sinks.a]\n{SLACK}"
    monkeypatch.setenv("SIDEFX_TEST_SECRET", SECRET)
    for value in (SECRET, "${SIDEFX_TEST_SECRET}"):
        if key in {"sinks.a.webhook", "sinks.a.type", "sinks"}:
            path.write_text(f'sinks.a.type = "{HERE}:Slack"\n' * (name == "webhook") + f'{key} = "{value}"\n')
        elif table in {"", "sinks"}:
            path.write_text(f'{key} = "{value}"\n')
        else:
            path.write_text(
                f'{base}[{table}]\n{name} = "{value}"\n' if table != "sinks.a" else f'{base}{name} = "{value}"'
            )
        with pytest.raises(ConfigError) as raised:
            load(path)
        assert raised.value.problems
        assert SECRET not in f"{raised.value} {raised.value!r} {raised.value.problems!r}"
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.contract("F03")
def test_what_a_constructor_quotes_is_concealed(
    mistakes: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink's own message is passed on without the values that it was given, and without quoted pieces of them."""
    url = f"postgresql://shop:{SECRET}@db/shop"
    monkeypatch.setenv("SIDEFX_TEST_URL", url)
    found = mistakes(
        f'[sinks.a]\n{SLACK}channel = "${{SIDEFX_TEST_URL}}"\n'
        f'[sinks.b]\ntype = "{HERE}:SecretKeeper"\npassword = "{SECRET}"\n'
    )
    assert found == {"sinks.a": "channel: cannot use '***', nor '***'", "sinks.b": "cannot log in with ***"}


@pytest.mark.contract("F03")
def test_a_configuration_does_not_show_its_sinks(write: Write) -> None:
    """The repr of a `Config` leaves out the sinks, whose own reprs may show what they were given."""
    config = load(write(f'[sinks.m]\ntype = "{HERE}:Mailbox"\nhost = "{SECRET}"\n'))
    assert isinstance(config, Config)
    assert SECRET in repr(config.sinks)
    assert SECRET not in repr(config)


def test_names_cannot_steer_a_terminal(mistakes: Callable[[str], dict[str, str]]) -> None:
    """Control characters in a key are escaped wherever it is printed."""
    found = mistakes('"\\u001b[31m\\n" = 1\n')
    assert list(found) == ['"\\x1b[31m\\n"']


def test_reading_a_file_is_what_loads_the_reader() -> None:
    """`import sidefx` does not import pydantic-settings."""
    import subprocess

    code = "import sidefx, sys; sys.exit('pydantic_settings' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_in_the_project_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """`config.example.toml` has no mistakes, and shows every option of a lane, the runtime and the journal."""
    for name in [name for name in os.environ if name.startswith("SIDEFX_")]:
        monkeypatch.delenv(name)
    example = Path(__file__).parents[2] / "config.example.toml"
    config = load(example)
    assert set(config.types.values()) == {"audit_log", "analytics", "email", "cache", "log"}
    text = example.read_text(encoding="utf-8")
    assert [name for name in SinkOptions.model_fields if f"\n{name} = " not in text.replace("\n# ", "\n")] == []
    assert [name for name in type(config.runtime).model_fields if f"\n{name} = " not in text] == []
    _, _, journal = text.replace("\n# ", "\n").partition("\n[journal]\n")
    journal, _, _ = journal.partition("\n\n")
    assert [name for name in JournalOptions.model_fields if f"\n{name} = " not in f"\n{journal}"] == []


@pytest.mark.parametrize(
    ("section", "options"),
    [("`[runtime]`", RuntimeOptions()), ("`[journal]`", JournalOptions()), ("`[sinks.NAME]`", SinkOptions())],
    ids=["runtime", "journal", "sinks"],
)
def test_every_option_is_described(section: str, options: BaseModel) -> None:
    """`docs/configuration.md` has a row, with the right default, for every option of the table."""
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    _, _, text = page.partition(f"\n## {section}\n")
    text, _, _ = text.partition("\n## ")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", text, flags=re.MULTILINE))
    expected = _defaults(options)
    assert rows.keys() == expected.keys()
    for name, default in expected.items():
        written = rows[name].strip("`")
        if isinstance(default, (int, float, str, Path)):
            assert written.strip('"') == str(default) or float(written.replace("_", "")) == default
        else:
            assert written in {"none", "no limit", "every kind that the sink accepts", "[]"}


def _defaults(options: BaseModel, above: str = "") -> dict[str, Any]:
    """Every option with its default, those of nested tables under `table.key`."""
    found: dict[str, Any] = {}
    for name, value in options:
        found |= _defaults(value, f"{above}{name}.") if isinstance(value, BaseModel) else {f"{above}{name}": value}
    return found


def test_annotations_may_carry_constraints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Annotated[..., Field(...)]` says of a parameter is checked; its module may postpone annotations."""
    (tmp_path / "sidefx_test_annotated.py").write_text(
        "from __future__ import annotations\n"
        "from typing import Annotated\n"
        "from pydantic import Field\n"
        "from sidefx import AuditEvent\n"
        "class Sink:\n"
        "    def __init__(self, *, share: Annotated[float, Field(ge=0, le=1)] = 0.5) -> None:\n"
        "        self.share = share\n"
        "    async def send(self, event: AuditEvent) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "sidefx.toml"
    path.write_text('[sinks.s]\ntype = "sidefx_test_annotated:Sink"\nshare = 0.25\n')
    sink: Any = load(path).sinks["s"]
    assert sink.share == 0.25
    path.write_text('[sinks.s]\ntype = "sidefx_test_annotated:Sink"\nshare = 2\n')
    with pytest.raises(ConfigError, match=r"sinks\.s\.share: Input should be less than or equal to 1"):
        load(path)


def test_constraints_of_a_type_alias_are_kept() -> None:
    """The annotation is used whole: nothing of `Annotated` is lost on the way to the model."""
    from sidefx.config.settings import settings_model

    class Sink:
        def __init__(self, *, size: Annotated[int, Field(gt=0, description="In bytes.")] = 1) -> None: ...

    (setting,) = settings_model(Sink).model_fields.values()
    assert (setting.alias, setting.description, setting.default) == ("size", "In bytes.", 1)
