"""The app of one framework under the adapter, for a server in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from sidefx import SideEffects
from sidefx.wsgi import SideEffectsMiddleware
from tests.wsgi.frameworks import FRAMEWORKS
from tests.wsgi.record import Record

record = Record(Path(os.environ["RECORD"]))
framework = FRAMEWORKS[os.environ["FRAMEWORK"]]
app = SideEffectsMiddleware(
    framework.build(record.schedule, Path(os.environ["FILE"])), effects=SideEffects({"sink": record.sink})
)
