"""`python -m sidefx.demo`: its arguments, and how it begins and ends."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anyio

from sidefx import ConfigError, SinkStartError

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from sidefx.demo.stage import Stage

_CONFIG = Path("config.example.toml")
_PORT = 8000
_ORDERS = 200
_DRAIN_SECONDS = 1
_RESET_SECONDS = 3

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; 0: all went well, 1: something is missing (`--once`), 2: wrong usage or configuration."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.orders is not None and not options.once:
        parser.error("--orders goes with --once")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not options.config.is_file():
        where = (
            f"in {Path.cwd()} there is no {_CONFIG}" if options.config == _CONFIG else f"{options.config} is no file"
        )
        return _refuse(f"{where}; run it in a checkout of sidefx, or name a configuration with --config")
    try:
        from sidefx.demo import once, stage  # noqa: F401, PLC0415 - whether all is there that they need
    except ModuleNotFoundError as error:
        return _refuse(f"it needs {error.name}, which is not installed; run: pip install 'sidefx[demo]'")
    try:
        listener = _listener(options.port)
    except OSError as error:
        return _refuse(f"port {options.port}: {error.strerror}")
    with ExitStack() as files:
        files.callback(listener.close)
        try:
            folder = _folder(options.keep, files)
            return anyio.run(_run, options, listener, folder)
        except (ConfigError, SinkStartError, OSError) as error:
            return _refuse(str(error))
        except KeyboardInterrupt:  # before it had begun, or for the second time
            return _INTERRUPTED


async def _run(options: argparse.Namespace, listener: socket.socket, folder: Path) -> int:
    from sidefx.demo.stage import staged  # noqa: PLC0415

    if not options.once:  # whoever presses Ctrl-C while a sink hangs should not wait for it
        os.environ.setdefault("SIDEFX_RUNTIME__DRAIN_TIMEOUT", str(_DRAIN_SECONDS))
        for sink in ("AUDIT", "ANALYTICS", "EMAIL"):  # nor wait half a minute for a sink that works again
            os.environ.setdefault(f"SIDEFX_SINKS__{sink}__BREAKER__RESET", str(_RESET_SECONDS))
    async with staged(options.config, listener, folder) as stage:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            if options.once:
                return await _once(stage, options.orders or _ORDERS, signals)
            print(f"The shop is open at {stage.url}", "Ctrl-C closes it.", sep="\n", flush=True)
            async for _ in signals:
                break
    print("\nClosed.")
    return 0


async def _once(stage: Stage, orders: int, signals: AsyncIterator[signal.Signals]) -> int:
    from sidefx.demo.once import once  # noqa: PLC0415

    result = _INTERRUPTED
    async with anyio.create_task_group() as tasks:

        async def cancel_when_told() -> None:
            async for _ in signals:
                tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_when_told)
        result = 0 if await once(stage, orders) else 1
        tasks.cancel_scope.cancel()
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sidefx.demo",
        description="A small shop with every sink at work: on a page to play with, or by itself with --once.",
    )
    parser.add_argument(
        "--config", type=Path, default=_CONFIG, metavar="PATH", help="default: %(default)s, in this folder"
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help=f"of the shop, on 127.0.0.1; 0: any that is free (default: {_PORT}, if free)",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the audit log is kept; otherwise it is removed")
    parser.add_argument(
        "--once", action="store_true", help="place orders, check that all of their effects arrive, and end"
    )
    parser.add_argument(
        "--orders", type=_positive, metavar="N", help=f"how many orders --once places (default: {_ORDERS})"
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        msg = f"{text!r} is no port: a number from 0 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        msg = f"{text!r} is no number above 0"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _listener(port: int | None) -> socket.socket:
    from sidefx.demo.serving import listen  # noqa: PLC0415

    if port is not None:
        return listen(port)
    try:
        return listen(_PORT)
    except OSError:
        print(f"Port {_PORT} is taken, so another one is used.")
        return listen()


def _folder(keep: Path | None, files: ExitStack) -> Path:
    if keep is None:
        return Path(
            files.enter_context(TemporaryDirectory(prefix="sidefx-demo-", ignore_cleanup_errors=True))
        ).resolve()
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def _refuse(message: str) -> int:
    print(f"sidefx demo: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
