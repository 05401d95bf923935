"""`InOrder`: a group of commands whose help lists them in the order in which they were added."""

from __future__ import annotations

import click


class InOrder(click.Group):
    """What is looked at first, stands first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's name
        """Their names."""
        return list(self.commands)
