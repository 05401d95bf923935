"""The audit log: each `AuditEvent` as one row of a database table, once, chained to the one before it."""

from sidefx_sinks.audit_log.append_only import trigger_statements
from sidefx_sinks.audit_log.checkpoint import AuditCheckpoint
from sidefx_sinks.audit_log.sink import AuditLog
from sidefx_sinks.audit_log.table import audit_table, metadata

__all__ = ["AuditCheckpoint", "AuditLog", "audit_table", "metadata", "trigger_statements"]
