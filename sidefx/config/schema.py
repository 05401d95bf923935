"""The JSON Schema of the configuration file, with which editors complete and check it.

Draft 7, the newest that the TOML language server Taplo (and with it the editor extension "Even
Better TOML") takes. A file names it in its first line: `#:schema ./sidefx.schema.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from sidefx.config.settings import settings_model
from sidefx.config.sinks import SINK_NAME
from sidefx.errors import SidefxError
from sidefx.options import JournalOptions, RuntimeOptions, SinkOptions
from sidefx.plugins import SinkType, find, published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

Schema = dict[str, Any]

_REFERENCE = "#/definitions/{model}"
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}
_RATE: Schema = {"type": "string", "pattern": r"/|\$\{", "description": "As '50/s', '5/min' or '100/h'."}
_CONSTRAINTS = ("pattern", "format", "minLength", "maxLength", "enum", "const")
_ANNOTATIONS = ("title", "description", "default", "examples")


def json_schema() -> Schema:
    """The schema, with the settings of every sink type that is installed here and can be imported."""
    types = dict(_installed())
    models: list[type[BaseModel]] = [RuntimeOptions, JournalOptions, SinkOptions, *types.values()]
    found, shared = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
    definitions = {name: _as_written(definition) for name, definition in shared["$defs"].items()}
    definitions["RateLimit"] = {"anyOf": [_RATE, definitions["RateLimit"]]}

    def taken(model: type[BaseModel]) -> Schema:
        reference: str = found[model, "validation"]["$ref"]
        definition: Schema = definitions.pop(reference.removeprefix(_REFERENCE.format(model="")))
        return definition

    lane = taken(SinkOptions)["properties"]
    sinks = [_sink(name, taken(model), lane) for name, model in types.items()]
    tables = {
        "runtime": taken(RuntimeOptions),
        "journal": taken(JournalOptions),
        "sinks": {
            "type": "object",
            "title": "Sinks",
            "description": "A table for each sink, under a name of your own.",
            "propertyNames": {"pattern": f"^{SINK_NAME.pattern}$"},
            "additionalProperties": {"anyOf": [*sinks, _any_sink(lane)]},
        },
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "sidefx",
        "description": "Configuration of sidefx: side effects after the response.",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
        "definitions": definitions,
    }


def _installed() -> Iterator[tuple[str, type[BaseModel]]]:
    """The published types with their settings; one whose extra is missing is left out: nobody here can use it."""
    for name in published():
        try:
            sink_type: SinkType = find(name)
            if isinstance(sink_type.target, type):
                yield name, settings_model(sink_type.target)
        except SidefxError:
            continue


def _sink(name: str, settings: Schema, lane: Schema) -> Schema:
    """The table of a sink of a published type."""
    return {
        "type": "object",
        "title": name,
        "description": settings.get("description", ""),
        "properties": {
            "type": {"const": name, "description": "The sink's type."},
            **settings.get("properties", {}),
            **lane,
        },
        "required": ["type", *settings.get("required", [])],
        "additionalProperties": False,
    }


def _any_sink(lane: Schema) -> Schema:
    """The table of a sink that is named by `module:Name`; its settings are not known here."""
    kind = {"type": "string", "pattern": ":", "description": "A class or async function of yours, as `module:Name`."}
    return {
        "type": "object",
        "title": "module:Name",
        "properties": {"type": kind, **lane},
        "required": ["type"],
        "additionalProperties": True,
    }


def _as_written(schema: Any) -> Any:
    """The schema as TOML is written: without null, and with `"${NAME}"` wherever not every text is allowed."""
    if isinstance(schema, list):
        return [_as_written(each) for each in schema if each != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    schema = {key: value if key in _ANNOTATIONS else _as_written(value) for key, value in schema.items()}
    if schema.get("default", ...) is None:
        del schema["default"]
    if len(schema.get("anyOf", ())) == 1:
        schema = {**schema.pop("anyOf")[0], **schema}
    constrained = schema.get("type") == "string" and any(key in schema for key in _CONSTRAINTS)
    if schema.get("type") in {"integer", "number", "boolean"} or (constrained and schema.get("format") != "password"):
        notes = {key: schema.pop(key) for key in _ANNOTATIONS if key in schema}
        return {**notes, "anyOf": [schema, _VARIABLE]}
    return schema
