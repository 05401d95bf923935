"""`AuditEvent`: who did what to what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sidefx.events.event import Event
from sidefx.events.fields import Identifier, as_dict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

AuditOutcome = Literal["success", "failure", "denied", "unknown"]


class AuditEvent(Event, kind="audit"):
    """Who did what to what, with which outcome: one record of the audit log."""

    action: Annotated[str, Field(min_length=1)]
    """What was done, such as `order.create`."""
    actor: Identifier | None = None
    """Who did it; None where nobody was signed in."""
    actor_label: str | None = None
    """What the actor is called now: a name that outlives its account."""
    target: Identifier | None = None
    """What it was done to, such as `order:17`."""
    target_label: str | None = None
    """What the target is called now: a name that outlives its deletion."""
    outcome: AuditOutcome = "success"
    reason: str | None = None
    changes: dict[str, Any] | None = None
    """Field name to `[before, after]`, as `changes()` makes it of two objects."""
    tenant: Identifier | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


# as calling the class, less a call of Python: these are made in request handlers, several a request
_audit_event = AuditEvent.__pydantic_validator__.validate_python


def audit(
    action: str,
    *,
    actor: str | int | UUID | None = None,
    actor_label: str | None = None,
    target: str | int | UUID | None = None,
    target_label: str | None = None,
    outcome: AuditOutcome = "success",
    reason: str | None = None,
    changes: Mapping[str, Any] | None = None,
    tenant: str | int | UUID | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> AuditEvent:
    """A record for the audit log: who (`actor`) did what (`action`) to what (`target`).

    The labels are what a person calls the two, kept for the time when neither is there any more.

    Raises:
        pydantic.ValidationError: a value has the wrong form.
    """
    event: AuditEvent = _audit_event(
        {
            "action": action,
            "actor": actor,
            "actor_label": actor_label,
            "target": target,
            "target_label": target_label,
            "outcome": outcome,
            "reason": reason,
            "changes": None if changes is None else as_dict(changes),
            "tenant": tenant,
            "metadata": as_dict(metadata),
        }
    )
    return event
