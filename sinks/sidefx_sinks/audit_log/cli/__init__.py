"""`sidefx audit`: reading the audit log, verifying it, and keeping it in bounds."""

import click

from sidefx_sinks.audit_log.cli.archive import archive
from sidefx_sinks.audit_log.cli.ddl import ddl
from sidefx_sinks.audit_log.cli.export import export
from sidefx_sinks.audit_log.cli.records import list_, show, tail
from sidefx_sinks.audit_log.cli.verify import verify


class _InOrder(click.Group):
    """What is needed most often, stands first in the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's name
        return list(self.commands)


@click.group(cls=_InOrder)
def audit() -> None:
    """The audit log: list, show, follow and export its records, verify its chains, archive what is old.

    It is the sink of type audit_log in the configuration, or --url.
    """


for _command in (list_, show, tail, export, verify, archive, ddl):
    audit.add_command(_command)

__all__ = ["audit"]
