"""`mas serve`: one process from its configuration to its end.

It fails loudly: whatever part fails takes the process with it, since what is durable is durable and a restart replays.
"""

import asyncio
import gc
import signal
from pathlib import Path

import msgspec
import uvloop

from mas.config import Config, load_config
from mas.daemon.data_directory import DataDirectory, Identity
from mas.daemon.wiring import Process
from mas.runtime import Supervisor, SystemDice
from mas.telemetry import setup_logging


def serve(
    *,
    role: str | None = None,
    data_dir: Path | None = None,
    config_file: Path | None = None,
    database: str | None = None,
) -> None:
    """Run a node until SIGINT or SIGTERM.

    Raises:
        MasError: it can't start (`ConfigError`), or a part of it has failed.
    """
    config = load_config(config_file) if config_file is not None else Config()
    node = {"role": role, "data_dir": str(data_dir) if data_dir is not None else None}
    config = msgspec.structs.replace(
        config,
        node=msgspec.structs.replace(
            config.node, **{k: v for k, v in node.items() if v is not None}
        ),
    )
    if database is not None:
        storage = msgspec.structs.replace(config.storage, database=database)
        config = msgspec.structs.replace(config, storage=storage)
    setup_logging()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: Config) -> None:
    identity = Identity(config.node.cluster_id, config.node.id)
    with DataDirectory(Path(config.node.data_dir), identity) as directory:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with Supervisor() as watch, Supervisor() as parts:
            watch.spawn("watch", stop_on_failure(parts, stop))
            process = Process(config, directory, parts, SystemDice())
            try:
                await process.start()
                # What lives now lives to the end: no collection need look at it again.
                gc.collect()
                gc.freeze()
                print(process.greeting(), flush=True)  # noqa: T201 - for whoever started it
                await stop.wait()
            finally:
                await process.stop()


async def stop_on_failure(parts: Supervisor, stop: asyncio.Event) -> None:
    """Have a process stop, and fail, once a part of it has failed."""
    try:
        await parts.wait()
    finally:
        stop.set()
