"""The WSGI adapter: a scope per request, closed when its response is, and a runtime in a thread of the process.

It is plain WSGI (https://peps.python.org/pep-3333/) and imports no framework.
"""

from sidefx.wsgi.middleware import SideEffectsMiddleware

__all__ = ["SideEffectsMiddleware"]
