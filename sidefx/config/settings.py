"""A sink's settings: the annotated parameters of its constructor, as a pydantic model."""

from __future__ import annotations

import inspect
from dataclasses import InitVar, is_dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUserError

from sidefx.errors import SinkContractError
from sidefx.options import SinkOptions

LANE_KEYS = frozenset({"type", *SinkOptions.model_fields})
"""The keys of a sink's table that are never its own."""

_PLAIN = (str, int, float, bool, type(None))
_CONFIG = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def settings_model(sink_type: type) -> type[BaseModel]:
    """A model with a field for each setting that the class takes, under its name as the alias.

    A parameter is a setting where JSON can say its annotation. One that it cannot say (a client, a
    callable) and that has a default is for code alone.

    Raises:
        SinkContractError: the constructor cannot be called with settings from a file.
    """
    where = sink_type.__qualname__
    hints = _hints(sink_type)
    fields: dict[str, Any] = {}
    for parameter in _parameters(sink_type):
        name, required = parameter.name, parameter.default is parameter.empty
        if name in LANE_KEYS:
            msg = f"{where}: its parameter '{name}' has the name of a lane option; rename it"
            raise SinkContractError(msg)
        annotation = hints.get(name, parameter.annotation)
        if isinstance(annotation, InitVar):
            annotation = annotation.type
        settable = (
            parameter.kind is not parameter.POSITIONAL_ONLY
            and annotation is not parameter.empty
            and _is_sayable(annotation)
        )
        if settable:
            # An alias, because `schema` or `copy` as a field's name would hide a method of the model.
            fields[f"setting_{name}"] = (annotation, Field(alias=name, **_default(parameter)))
        elif required:
            msg = f"{where}: its parameter '{name}' cannot be given in TOML; annotate it, or give it a default"
            raise SinkContractError(msg)
    return create_model(where, __config__=_CONFIG, __doc__=inspect.getdoc(sink_type), **fields)


def given(settings: BaseModel) -> dict[str, Any]:
    """The constructor's arguments: what was set, so that its own defaults hold for the rest."""
    fields = type(settings).model_fields
    return {str(fields[name].alias): getattr(settings, name) for name in settings.model_fields_set}


def _parameters(sink_type: type) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(sink_type).parameters.values()
    except (TypeError, ValueError) as error:
        msg = f"{sink_type.__qualname__}: its constructor does not say which parameters it has"
        raise SinkContractError(msg) from error
    return [each for each in parameters if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]


def _hints(sink_type: type) -> dict[str, Any]:
    """The annotations, resolved: a dataclass's come from its fields, which may be inherited from other modules."""
    source: Any = sink_type if is_dataclass(sink_type) else getattr(sink_type, "__init__")  # noqa: B009 - of the class
    try:
        return get_type_hints(source, include_extras=True)
    except NameError as error:
        msg = (
            f"{sink_type.__qualname__}: its constructor's annotations name {error.name!r}, which its module does not "
            "define at run time (an import under TYPE_CHECKING?)"
        )
        raise SinkContractError(msg) from error


def _is_sayable(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).json_schema()
    except PydanticUserError:
        return False
    return True


def _default(parameter: inspect.Parameter) -> dict[str, Any]:
    """A default for the JSON Schema to show where it is plain; the others are not shown, nor used."""
    default = parameter.default
    if default is parameter.empty:
        return {}
    return {"default": default} if isinstance(default, _PLAIN) else {"default_factory": lambda: default}
