"""The stage: the shop, and every receiver of its effects, all on this machine."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sidefx import SideEffects
from sidefx.asgi import SideEffectsMiddleware
from sidefx.demo import page
from sidefx.demo.collector import Collector
from sidefx.demo.faults import TableSwitch
from sidefx.demo.mailbox import Mailbox
from sidefx.demo.records import Records
from sidefx.demo.serving import address, listen, serving
from sidefx.demo.shop import Shop
from sidefx.demo.timeline import Timeline

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping

    from sidefx.asgi import ASGIApp
    from sidefx.demo.faults import Switch

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Stage:
    """All that stands on it."""

    url: str
    effects: SideEffects
    timeline: Timeline
    records: Records
    database: Switch
    """Turns what else goes on in the database of the audit log."""
    shop: Shop = field(default_factory=Shop)
    collector: Collector = field(default_factory=Collector)
    mailbox: Mailbox = field(default_factory=Mailbox)

    @property
    def switches(self) -> Mapping[str, Switch]:
        """By the name of the sink whose receiver each turns."""
        return {"audit": self.database, "analytics": self.collector.switch, "email": self.mailbox.switch}


@asynccontextmanager
async def staged(config: Path, listener: socket.socket, folder: Path) -> AsyncIterator[Stage]:
    """Runs everything while the block lasts: the shop on `listener`, its files in `folder`.

    The receivers' addresses reach the configuration through the environment variables that
    `config.example.toml` names.

    Raises:
        ConfigError: the configuration has mistakes.
        SinkStartError: a sink could not be opened.
    """
    with listen() as to_collector, listen() as to_mailbox:
        database = folder / "audit.db"
        os.environ["SIDEFX_DEMO_AUDIT_URL"] = f"sqlite:///{database}"
        os.environ["SIDEFX_DEMO_JOURNAL"] = str(folder / "journal")
        os.environ["SIDEFX_DEMO_COLLECTOR_URL"] = f"http://{address(to_collector)}"
        os.environ["SIDEFX_DEMO_SMTP_PORT"] = str(to_mailbox.getsockname()[1])
        os.environ.setdefault(
            "SIDEFX_SINKS__EMAIL__TEMPLATES", str(_TEMPLATES)
        )  # overrides the file, as any key can be

        timeline = Timeline()
        effects = SideEffects.from_toml(config, observers=[timeline.observe])
        stage = Stage(f"http://{address(listener)}", effects, timeline, Records(database), TableSwitch(database))
        async with serving(stage.collector.app, to_collector), stage.mailbox.serving(to_mailbox):
            try:
                async with effects, serving(_app(stage), listener, lifespan=True):
                    yield stage
            finally:
                for switch in stage.switches.values():  # who still hangs is let go, so that the receivers can end
                    await switch.turn("ok")


def _app(stage: Stage) -> ASGIApp:
    """The shop and the page; no other site that a browser has open may speak to them."""
    app = Starlette(routes=[*stage.shop.routes, *page.routes(stage)])
    # An application of your own says config="sidefx.toml" in place of effects=, and watches nothing.
    with_effects = SideEffectsMiddleware(stage.timeline.watch(app), effects=stage.effects)
    return TrustedHostMiddleware(with_effects, allowed_hosts=["127.0.0.1", "localhost"])
