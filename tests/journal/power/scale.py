"""How much is tried: a little in every run, and much more, half an hour, with `SIDEFX_LONG_TESTS=1`."""

from __future__ import annotations

import os

LONG = os.environ.get("SIDEFX_LONG_TESTS") == "1"
SEEDS = range(1, 11) if LONG else range(1, 2)
