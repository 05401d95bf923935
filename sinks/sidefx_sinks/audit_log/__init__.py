"""The audit log: each `AuditEvent` as one row of a database table, once."""

from sidefx_sinks.audit_log.sink import AuditLog
from sidefx_sinks.audit_log.table import audit_table, metadata

__all__ = ["AuditLog", "audit_table", "metadata"]
