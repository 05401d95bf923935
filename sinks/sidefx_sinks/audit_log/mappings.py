"""Records as other systems know them: OCSF and the Elastic Common Schema."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidefx_sinks.audit_log.record import Record

_API_ACTIVITY = 6003
_ACTIVITIES = {
    "create": 1, "add": 1, "insert": 1, "register": 1,
    "read": 2, "get": 2, "view": 2, "list": 2, "show": 2, "export": 2, "download": 2,
    "update": 3, "change": 3, "edit": 3, "set": 3, "rename": 3, "enable": 3, "disable": 3,
    "delete": 4, "remove": 4, "destroy": 4,
}  # fmt: skip
_OTHER = 99
_ACTIVITY_NAMES = {1: "Create", 2: "Read", 3: "Update", 4: "Delete", _OTHER: "Other"}
_STATUS = {"success": (1, "Success"), "failure": (2, "Failure"), "denied": (2, "Failure")}
_ECS_TYPES = {1: "creation", 2: "access", 3: "change", 4: "deletion"}


def ocsf(record: Record) -> dict[str, Any]:
    """An event of the class API Activity (https://schema.ocsf.io/1.5.0/classes/api_activity).

    The activity is guessed from the last word of the action; what has no place of its own is in `unmapped`.
    """
    activity = _activity(record["action"])
    target = {"uid": record["target"], "name": record["target_label"]}
    status, status_name = _STATUS.get(record["outcome"], (0, "Unknown"))
    return _without_gaps(
        {
            "category_uid": 6,
            "category_name": "Application Activity",
            "class_uid": _API_ACTIVITY,
            "class_name": "API Activity",
            "activity_id": activity,
            "activity_name": _ACTIVITY_NAMES[activity] if activity != _OTHER else record["action"],
            "type_uid": _API_ACTIVITY * 100 + activity,
            "time": _milliseconds(record["at"]),
            "severity_id": 1,
            "severity": "Informational",
            "status_id": status,
            "status": status_name,
            "status_detail": record["reason"],
            "actor": {"user": {"uid": record["actor"], "name": record["actor_label"]}},
            "api": {"operation": record["action"], "request": {"uid": record["request_id"]}},
            "resources": [_without_gaps(target)] if any(target.values()) else None,
            "src_endpoint": {"ip": record["ip"]},
            "http_request": {"user_agent": record["user_agent"]},
            "metadata": {
                "version": "1.5.0",
                "product": {"name": "sidefx", "vendor_name": "sidefx"},
                "uid": record["id"],
                "sequence": record["chain_seq"],
                "tenant_uid": record["tenant"],
                "correlation_uid": record["trace_id"],
            },
            "unmapped": {
                "outcome": record["outcome"],
                "changes": _whole(record["changes"]),
                "metadata": _whole(record["metadata"]),
                "chain": record["chain"],
                "hash": record["hash"],
            },
        }
    )


def ecs(record: Record) -> dict[str, Any]:
    """A document of the Elastic Common Schema (https://www.elastic.co/docs/reference/ecs/ecs-field-reference).

    What it has no field for stands under `sidefx`, a name of our own as the schema asks for.
    """
    outcome = {"success": "success", "failure": "failure", "denied": "failure"}.get(record["outcome"], "unknown")
    kind = _ECS_TYPES.get(_activity(record["action"]), "info")
    return _without_gaps(
        {
            "@timestamp": record["at"],
            "ecs": {"version": "8.17.0"},
            "event": {
                "kind": "event",
                "category": ["iam" if record["action"].startswith(("user.", "role.", "group.")) else "configuration"],
                "type": [kind, "denied"] if record["outcome"] == "denied" else [kind],
                "action": record["action"],
                "outcome": outcome,
                "reason": record["reason"],
                "id": record["id"],
                "sequence": record["chain_seq"],
                "hash": record["hash"],
                "module": "sidefx",
                "dataset": "sidefx.audit",
            },
            "user": {"id": record["actor"], "full_name": record["actor_label"]},
            "source": {"ip": record["ip"]},
            "user_agent": {"original": record["user_agent"]},
            "http": {"request": {"id": record["request_id"]}},
            "trace": {"id": record["trace_id"]},
            "organization": {"id": record["tenant"]},
            "sidefx": {
                "target": {"id": record["target"], "label": record["target_label"]},
                "outcome": record["outcome"],
                "changes": _whole(record["changes"]),
                "metadata": _whole(record["metadata"]),
                "chain": record["chain"],
            },
        }
    )


def _activity(action: str) -> int:
    word = action.replace(":", ".").replace("_", ".").replace("-", ".").rpartition(".")[2].lower()
    return next((number for verb, number in _ACTIVITIES.items() if word in {verb, f"{verb}d", f"{verb}ed"}), _OTHER)


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1_000)


def _without_gaps(value: dict[str, Any]) -> dict[str, Any]:
    """Without what is None, and objects in which nothing else is; what the record itself holds stays as it is."""
    found = {}
    for name, item in value.items():
        kept = _without_gaps(item) if isinstance(item, dict) and not isinstance(item, _AsItIs) else item
        if kept is not None and kept != {}:
            found[name] = kept
    return found


class _AsItIs(dict[str, Any]):
    """An object that is not looked into."""


def _whole(value: Any) -> Any:
    return _AsItIs(value) if isinstance(value, dict) else value
