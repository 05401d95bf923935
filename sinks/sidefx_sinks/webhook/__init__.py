"""Events to a URL: CloudEvents or plain JSON, signed by the Standard Webhooks scheme."""

from sidefx_sinks.webhook.sink import Webhook

__all__ = ["Webhook"]
