"""The processes beside a benchmark's cluster: one that loads it, and an echo that shows what the load could be at most."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from mas.errors import MasError

T = TypeVar("T")


class BenchFailed(MasError):
    """Something was lost, or a process failed: the figures are worth nothing."""


async def run_load(module: str, job: msgspec.Struct, result: type[T]) -> T:
    """Run a load process: it reads its job from stdin, and prints its result; both as JSON.

    Raises:
        BenchFailed: it failed; what it says about that is on stderr.
    """
    command = [sys.executable, "-m", module]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        output, _ = await process.communicate(msgspec.json.encode(job))
    finally:
        await _end(process)
    if process.returncode:
        # Not the job itself: it holds a token.
        raise BenchFailed(f"{module} ended with status {process.returncode}: it says above why")
    return msgspec.json.decode(output, type=result)


@asynccontextmanager
async def echo_server(tls: Path | None) -> AsyncIterator[str]:
    """The address of an echo of its own process, with the certificates in this directory or in plaintext."""
    command = [sys.executable, "-m", "mas.bench.echo", *([str(tls)] if tls else [])]
    server = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield f"127.0.0.1:{int(await server.stdout.readline())}"
    finally:
        await _end(server)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
