"""`mas serve`: one process from its configuration to its end.

It fails loudly: whatever part fails takes the process with it, since what is durable is durable and a restart replays.
"""

import asyncio
import gc
import logging
import os
import signal
from pathlib import Path

import uvloop

from mas.config import Config
from mas.daemon.data_directory import DataDirectory, Identity
from mas.daemon.joining import find_roster
from mas.daemon.open_files import raise_file_limit
from mas.daemon.process import Process
from mas.errors import WriteHangs
from mas.runtime import Supervisor, SystemDice
from mas.telemetry import setup_logging

_log = logging.getLogger(__name__)

_EXIT_FAILED = 1


def serve(config: Config) -> None:
    """Run a node until SIGINT or SIGTERM.

    Raises:
        MasError: it can't start (`ConfigError`), or a part of it has failed.
    """
    setup_logging()
    os.umask(0o077)  # whatever an engine makes is this user's alone, too
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: Config) -> None:
    identity = Identity(config.node.cluster_id, config.node.id)
    dice = SystemDice()
    with DataDirectory(Path(config.node.data_dir), identity, dice) as directory:
        roster = await find_roster(config, directory)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with Supervisor() as watch, Supervisor() as parts:
            watch.spawn("watch", stop_on_failure(parts, stop))
            process = Process(config, directory, roster, parts, dice)
            try:
                await process.start()
                # What lives now lives to the end: no collection need look at it again.
                gc.collect()
                gc.freeze()
                await process.until_taken(_tell, stop)
                if not stop.is_set():
                    _tell(process.greeting())
                await stop.wait()
            finally:
                await process.stop()


def _tell(text: str) -> None:
    """Say it to whoever started this process."""
    print(text, flush=True)  # noqa: T201 - it's their terminal


async def stop_on_failure(parts: Supervisor, stop: asyncio.Event) -> None:
    """Have a process stop, and fail, once a part of it has failed."""
    try:
        await parts.wait()
    except WriteHangs as error:
        _log.critical("%s", error)
        # Nothing is closed: whatever waits for the thread that hangs, the interpreter's own end too, would hang as well.
        os._exit(_EXIT_FAILED)
    finally:
        stop.set()
