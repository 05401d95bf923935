"""The journal: SQLite files that hold events from before the response until every sink has had them."""

from sidefx.journal.journal import Journal

__all__ = ["Journal"]
