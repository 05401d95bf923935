"""`TrackEvent`: what a user did, for product analytics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from sidefx.events.event import Event
from sidefx.events.fields import Identifier, as_dict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID


def _none_if_empty(value: str | None) -> str | None:
    return value or None


class TrackEvent(Event, kind="track"):
    """A product-analytics event of a user or of an anonymous visitor."""

    event: Annotated[str, Field(min_length=1)]
    """The event's name, such as `Order Completed`."""
    user_id: Annotated[Identifier | None, AfterValidator(_none_if_empty)] = None
    anonymous_id: Annotated[Identifier | None, AfterValidator(_none_if_empty)] = None
    properties: dict[str, Any] = Field(default_factory=dict)
    context: dict[str, Any] = Field(default_factory=dict)
    consent: dict[str, bool] | None = None
    """What the user has agreed to, by category, such as `{"analytics": True, "ads": False}`; None: not known."""

    @model_validator(mode="after")
    def _is_of_somebody(self) -> Self:
        if self.user_id is None and self.anonymous_id is None:
            msg = "give user_id or anonymous_id: analytics cannot count an event of nobody"
            raise ValueError(msg)
        return self


# as calling the class, less a call of Python: these are made in request handlers, several a request
_track_event = TrackEvent.__pydantic_validator__.validate_python


def track(
    event: str,
    *,
    user_id: str | int | UUID | None = None,
    anonymous_id: str | int | UUID | None = None,
    properties: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    consent: Mapping[str, bool] | None = None,
) -> TrackEvent:
    """An analytics event; one of `user_id` and `anonymous_id` is required.

    `consent` says what the user has agreed to, by category; a sink can require some of them.

    Raises:
        pydantic.ValidationError: a value has the wrong form, or neither id was given.
    """
    tracked: TrackEvent = _track_event(
        {
            "event": event,
            "user_id": user_id,
            "anonymous_id": anonymous_id,
            "properties": as_dict(properties),
            "context": as_dict(context),
            "consent": consent,
        }
    )
    return tracked
