"""Where settings come from: the TOML file, and over it the environment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import SkipValidation
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sidefx.problems import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

ENV_PREFIX = "SIDEFX_"
ENV_DELIMITER = "__"

Tree: TypeAlias = dict[str, Any]
"""Tables of settings, as TOML parses them; nothing in it is validated yet."""

_AT_LINE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)
_TOO_DEEP = "tables or arrays are nested too deeply"


class FromEnvironment(str):
    """A value that an environment variable gave: taken as it is, and read as JSON where a list or table is due."""

    __slots__ = ()


class _Environment(EnvSettingsSource):
    """`SIDEFX_SINKS__AUDIT__URL` is `sinks.audit.url`; every value stays the text that it is."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:  # noqa: ARG002 - pydantic's name
        return value

    def __call__(self) -> dict[str, Any]:
        tree: dict[str, Any] = _marked(super().__call__())
        return tree


class _File(TomlConfigSettingsSource):
    """The file as it is: pydantic-settings would take `[Sinks]` for `[sinks]`, and drop one of them."""

    def __call__(self) -> dict[str, Any]:
        return dict(self.toml_data)


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(child) for key, child in value.items()}
    return FromEnvironment(value)


def merged(path: Path) -> Tree:
    """The file's settings with those of the environment over them.

    Raises:
        ConfigError: the file is not there, cannot be read, or is not TOML.
    """

    class Sources(BaseSettings):
        """Only merges. Its tables are validated one by one afterwards, so that one mistake hides no other."""

        model_config = SettingsConfigDict(
            toml_file=path,
            env_prefix=ENV_PREFIX,
            env_nested_delimiter=ENV_DELIMITER,
            extra="allow",
        )

        runtime: SkipValidation[dict[str, Any]] = {}
        journal: SkipValidation[dict[str, Any]] = {}
        sinks: SkipValidation[dict[str, dict[str, Any]]] = {}

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            *_defaults: PydanticBaseSettingsSource,
            **_named_defaults: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return _Environment(settings_cls), _File(settings_cls)

    try:
        if not path.is_file():  # pydantic-settings takes a missing file for an empty one
            reason = "is no file" if path.exists() else "there is no such file"
            remedy = "create it, or name another with --config, SIDEFX_CONFIG or `config=`"
            raise ConfigError([Problem(str(path), reason, remedy)])
        sources = Sources()
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"is not UTF-8, at byte {error.start}", "save it as UTF-8")]) from None
    except ValueError as error:
        raise ConfigError([_syntax_problem(path, str(error))]) from None
    except RecursionError:
        raise ConfigError([Problem(str(path), _TOO_DEEP)]) from None
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}", "check its permissions")]) from None
    return {name: value for name, value in sources if name in sources.model_fields_set}


def _syntax_problem(path: Path, message: str) -> Problem:
    """`FILE:LINE:COLUMN`, which terminals and editors turn into a link."""
    if match := _AT_LINE.fullmatch(message):
        return Problem(f"{path}:{match[2]}:{match[3]}", f"is not TOML: {match[1]}")
    return Problem(str(path), f"is not TOML: {message}")
