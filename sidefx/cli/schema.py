"""`sidefx schema`: the JSON Schema of the configuration file."""

from __future__ import annotations

import json

import click

from sidefx.config import json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors.

    Save it as sidefx.schema.json and begin sidefx.toml with the line "#:schema ./sidefx.schema.json".
    """
    click.echo(json.dumps(json_schema(), indent=2))
