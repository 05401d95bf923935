"""The JSON Schema of the configuration file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from sidefx import SinkOptions
from sidefx.config import json_schema

pytestmark = pytest.mark.contract("F04")


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    """The schema, at work."""
    schema = json_schema()
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def test_the_example_is_valid(validator: Draft7Validator) -> None:
    """An editor marks nothing in `config.example.toml`."""
    example = (Path(__file__).parents[2] / "config.example.toml").read_text(encoding="utf-8")
    assert [error.message for error in validator.iter_errors(tomllib.loads(example))] == []


@pytest.mark.parametrize(
    ("table", "valid"),
    [
        ({"type": "log"}, True),
        ({"type": "log", "stream": "stdout", "timeout": 3}, True),
        ({"type": "log", "timeout": "${SECONDS:-3}"}, True),
        ({"type": "log", "batch": {"max_events": "${SIZE}"}}, True),
        ({"type": "log", "rate_limit": "50/s"}, True),
        ({"type": "log", "rate_limit": {"calls": 5, "period": 2.0}}, True),
        ({"type": "myapp.sinks:Slack", "webhook": "https://chat.example"}, True),
        ({"type": "log", "stream": "nowhere"}, False),
        ({"type": "log", "strem": "stdout"}, False),
        ({"type": "log", "timeout": "soon"}, False),
        ({"type": "log", "timeout": 0}, False),
        ({"type": "log", "batch": {"max_event": 3}}, False),
        ({"type": "log", "rate_limit": "often"}, False),
        ({"type": "lag"}, False),
        ({"stream": "stdout"}, False),
        ({"type": "audit_log"}, False),
        ({"type": "myapp.sinks:Slack", "timeout": 0}, False),
    ],
)
def test_what_an_editor_says_of_a_sink(validator: Draft7Validator, table: dict[str, Any], *, valid: bool) -> None:
    """A published type has its settings and nothing else; one of the user's own is checked in the lane's part."""
    assert validator.is_valid({"sinks": {"a": table}}) is valid


@pytest.mark.parametrize(
    "tree", [{"runtimes": {}}, {"runtime": {"drain": 3}}, {"sinks": {"A": {"type": "log"}}}, {"sinks": []}]
)
def test_what_an_editor_marks_elsewhere(validator: Draft7Validator, tree: dict[str, Any]) -> None:
    """Unknown tables and keys, and names that the environment could not address."""
    assert not validator.is_valid(tree)


def test_settings_are_documented() -> None:
    """A setting's description and default are those of its annotation; a lane option stands beside them."""
    choices = json_schema()["properties"]["sinks"]["additionalProperties"]["anyOf"]
    by_title = {choice["title"]: choice for choice in choices}
    assert {"audit_log", "analytics", "webhook", "email", "cache", "log", "module:Name"} <= set(by_title)
    table = by_title["audit_log"]["properties"]["table"]
    assert table["default"] == "audit_log"
    assert table["description"]
    for choice in choices:
        assert set(SinkOptions.model_fields) <= set(choice["properties"])
    undocumented = [
        f"{title}.{name}"
        for title, choice in by_title.items()
        for name, setting in choice["properties"].items()
        if name not in SinkOptions.model_fields and "description" not in setting
    ]
    assert undocumented == []


def test_the_schema_has_what_toml_has() -> None:
    """There is no null in TOML, and no reference that leads nowhere."""
    text = str(json_schema())
    assert "'null'" not in text
    assert "$defs" not in text
