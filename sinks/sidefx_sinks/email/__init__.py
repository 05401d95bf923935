"""Mail over SMTP, from the event's own words or from Jinja2 templates."""

from sidefx_sinks.email.sink import Email

__all__ = ["Email"]
