"""Configuration: one TOML file and the environment, read, checked as a whole and made into sinks."""

from sidefx.config.config import Config, config_path, load, load_journal
from sidefx.config.schema import json_schema
from sidefx.problems import ConfigError, Problem

__all__ = ["Config", "ConfigError", "Problem", "config_path", "json_schema", "load", "load_journal"]
