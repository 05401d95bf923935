"""The standard library's reference server, as a program: `python -m tests.wsgi.reference_server PORT MODULE:APP`."""

from __future__ import annotations

import importlib
import sys
from wsgiref.simple_server import make_server

if __name__ == "__main__":
    port, where = sys.argv[1:]
    module, _, name = where.partition(":")
    make_server("127.0.0.1", int(port), getattr(importlib.import_module(module), name)).serve_forever()
