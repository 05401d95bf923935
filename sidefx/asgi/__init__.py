"""The ASGI adapter: a scope per request, closed when the response is over, and the runtime's life cycle.

It is pure ASGI (https://asgi.readthedocs.io/en/stable/specs/main.html) and imports no framework.
"""

from sidefx.asgi.middleware import SideEffectsMiddleware
from sidefx.asgi.protocol import ASGIApp, ASGIScope, Message, Receive, Send

__all__ = ["ASGIApp", "ASGIScope", "Message", "Receive", "Send", "SideEffectsMiddleware"]
