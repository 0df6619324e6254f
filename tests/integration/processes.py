"""`mas serve` on its own, as a newcomer starts it, and the command line beside it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mas.config import Config, ListenConfig, NodeConfig, format_config
from mas.testing.local_cluster import free_ports

MAS = (sys.executable, "-m", "mas")
READY_SECONDS = 30
COMMAND_SECONDS = 100
"""What the longest of README's commands may take on a busy machine."""


class Server:
    """One `mas serve --role all` with free ports, its data and its client's home in a directory of the test's."""

    def __init__(self, directory: Path, cluster: str = "test") -> None:
        self.directory = directory
        self.environment = os.environ | {"MAS_HOME": str(directory / "home")}
        api, gls, node_service, rm, peer = free_ports(5)
        self.listen = ListenConfig(api=api, gls=gls, node_service=node_service, rm=rm, peer=peer)
        self.config = directory / "mas.toml"
        self.data = directory / "data"
        self.log = directory / "serve.log"
        self.write_config(Config(node=NodeConfig(cluster_id=cluster), listen=self.listen))

    def write_config(self, config: Config) -> None:
        self.config.write_text(format_config(config))

    def command(self) -> tuple[str, ...]:
        return (
            *MAS,
            "serve",
            "--role",
            "all",
            "--config",
            str(self.config),
            "--data-dir",
            str(self.data),
        )

    @contextmanager
    def running(self, says: str = " is ready") -> Iterator["subprocess.Popen[str]"]:
        """The process, once it says that it serves, or what else is expected; killed at the end if it still lives."""
        log = self.log
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(), stdout=output, stderr=output, env=self.environment, text=True
            )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while says not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield process
        finally:
            process.kill()
            process.wait()

    def fails(self) -> "subprocess.CompletedProcess[str]":
        """What happens when it can't start."""
        return subprocess.run(
            self.command(),
            capture_output=True,
            env=self.environment,
            text=True,
            timeout=READY_SECONDS,
            check=False,
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command of the command line, against this server."""
        return subprocess.run(
            (*MAS, *arguments),
            capture_output=True,
            env=self.environment,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
