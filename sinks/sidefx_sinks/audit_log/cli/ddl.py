"""`sidefx audit ddl`: the tables and their triggers as SQL, to be reviewed and run by whoever may."""

from __future__ import annotations

import click
import sqlalchemy as sa

from sidefx_sinks.audit_log.append_only import remark, table_statements, trigger_statements
from sidefx_sinks.audit_log.cli.log import log_of
from sidefx_sinks.audit_log.table import audit_table

_URLS = {"sqlite": "sqlite://", "postgresql": "postgresql+psycopg://", "mariadb": "mariadb+pymysql://"}


@click.command()
@click.option("--dialect", type=click.Choice(list(_URLS)), help="The database. Default: the sink's.")
@click.option("--sink", metavar="NAME", help="The sink in the configuration; default: the one of type audit_log.")
@click.option("--table", metavar="NAME", help="With --dialect: the table. Default: audit_log.")
@click.option("--triggers", "only_triggers", is_flag=True, help="Only what makes an existing table append-only.")
def ddl(dialect: str | None, sink: str | None, table: str | None, *, only_triggers: bool) -> None:
    """Print the tables, and triggers that make them append-only. Nothing is executed."""
    if dialect is None:
        if table is not None:
            msg = "--table goes with --dialect; a sink of the configuration has its own"
            raise click.UsageError(msg)
        log = log_of(sink, None, None)
        wanted, known = log.table, log.dialect
    else:
        wanted, known = audit_table(table or "audit_log"), sa.make_url(_URLS[dialect]).get_dialect()()
    try:
        triggers = trigger_statements(wanted, known)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    statements = triggers if only_triggers else [*table_statements(wanted, known), *triggers]
    click.echo(remark(known))
    for statement in statements:
        click.echo(f"\n{statement};")
