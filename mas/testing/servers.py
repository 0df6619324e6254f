"""A Redis and a MariaDB of one's own, on loopback, in a directory that is the caller's.

    async with RedisServer(directory / "redis") as redis:
        redis.pause()

Neither reads a configuration of the machine, and neither is reachable from elsewhere. They can be killed, paused and
started again on the same port with what they have stored; leaving the block ends them.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from mas.errors import MasError
from mas.files import write_private
from mas.runtime import SystemClock, SystemDice
from mas.testing.local_cluster import free_ports
from mas.testing.program import Program, end_all

_START_SECONDS = 60.0
_POLL_SECONDS = 0.02
_USER = "mas"
_HOST = "127.0.0.1"


class ServerFailed(MasError):
    """A server isn't installed, can't be started, or ended by itself."""


class Server(Program):
    """One server process, which listens on a port of its own for as long as the object lives."""

    def __init__(self, program: str, options: Sequence[str], directory: Path, ready: str) -> None:
        """`ready` is what it logs once it serves."""
        super().__init__([program, *options], directory / f"{Path(program).name}.log")
        self.directory = directory
        self._ready = ready
        self._clock = SystemClock()

    async def __aenter__(self) -> Self:
        try:
            self.start()
            await self.wait_ready()
        except BaseException:
            self.end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    async def wait_ready(self) -> None:
        """Wait until it serves.

        Raises:
            ServerFailed: it ended, or it took too long; the message ends with its log.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        while self._ready not in self.log():
            if not self.is_running() or self._clock.monotonic() > deadline:
                raise ServerFailed(f"{self.log_file.stem} doesn't serve; its log:\n{self.log()}")
            await self._clock.sleep(_POLL_SECONDS)

    async def restart(self) -> None:
        """Start it again after its end, and wait until it serves."""
        self.start()
        await self.wait_ready()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections, and answers nothing until `resume`."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self.signal(signal.SIGCONT)

    def end(self) -> None:
        """Ask it to end, and kill it if it doesn't."""
        end_all([self])


class RedisServer(Server):
    """A Redis with a password, which writes a log of its own once a second, and evicts nothing."""

    def __init__(self, directory: Path, *options: str, password: str = "") -> None:
        """`options` are lines of redis.conf, behind ours: the last one of a kind counts."""
        directory.mkdir(parents=True, exist_ok=True)
        [self.port] = free_ports(1)
        self.password = password or SystemDice().randbytes(16).hex()
        lines = (
            f"bind {_HOST}",
            f"port {self.port}",
            f"dir {directory}",
            f"requirepass {self.password}",
            f"masterauth {self.password}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "repl-diskless-sync-delay 0",
            *options,
        )
        file = directory / "redis.conf"
        write_private(file, "\n".join(lines) + "\n")
        program = _link_redis(directory)
        super().__init__(program, [str(file)], directory, "Ready to accept connections")

    @property
    def url(self) -> str:
        """For `storage.tm_store`."""
        return f"redis://:{quote(self.password)}@{_HOST}:{self.port}/0"


class MariaDbServer(Server):
    """A MariaDB with a database `mas1`, whose user has a password and every right, and which syncs every commit."""

    def __init__(self, directory: Path, *options: str) -> None:
        """`options` are the server's, behind ours: the last one of a kind counts."""
        directory.mkdir(parents=True, exist_ok=True)
        [self.port] = free_ports(1)
        self.password = SystemDice().randbytes(16).hex()
        self._data = directory / "data"
        self._common = (
            "--no-defaults",
            f"--datadir={self._data}",
            # It refuses to run as root unless it is told so.
            *(["--user=root"] if os.geteuid() == 0 else []),
        )
        users = directory / "users.sql"
        write_private(users, _USERS.format(user=_USER, host=_HOST, password=self.password))
        listen = (
            f"--port={self.port}",
            f"--bind-address={_HOST}",
            # Relative to the data: the path of a socket has a bound that a temporary directory's may pass.
            "--socket=mariadb.sock",
            f"--pid-file={directory / 'pid'}",
            f"--init-file={users}",
        )
        super().__init__(
            find_program("mariadbd"),
            [*self._common, *listen, *options],
            directory,
            "ready for connections",
        )

    @property
    def url(self) -> str:
        """For `storage.account_db`."""
        return f"mysql://{_USER}:{quote(self.password)}@{_HOST}:{self.port}/mas1"

    def start(self, environment: dict[str, str] | None = None) -> None:
        """Start the process; at the first time, make its data, which takes a second or two."""
        if not (self._data / "mysql").is_dir():
            self._make_data()
        super().start(environment)

    def _make_data(self) -> None:
        """Do what mariadb-install-db does, which needs programs of other packages.

        Raises:
            ServerFailed: it can't be done; the message ends with what the server says about it.
        """
        self._data.mkdir(exist_ok=True)
        made = subprocess.run(  # noqa: S603 - the same program as ever
            [
                find_program("mariadbd"),
                *self._common,
                "--bootstrap",
                "--skip-networking",
                "--innodb-log-file-size=8M",
                "--log-warnings=0",
            ],
            input="\n".join([_BOOTSTRAP, *(file.read_text() for file in _system_tables())]),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS,
        )
        if made.returncode:
            raise ServerFailed(f"mariadbd can't make its data:\n{made.stderr}")


_BOOTSTRAP = """
CREATE DATABASE mysql;
USE mysql;
SET @auth_root_socket = NULL;
SET @skip_auth_anonymous = 1;
"""
_USERS = """
CREATE USER IF NOT EXISTS {user}@'{host}' IDENTIFIED BY '{password}';
GRANT ALL ON *.* TO {user}@'{host}' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS mas1;
"""


def _system_tables() -> list[Path]:
    """Where Debian has them: beside the server's messages."""
    share = Path("/usr/share/mysql")
    return [
        share / f"mysql_{name}.sql"
        for name in ("system_tables", "performance_tables", "system_tables_data")
    ]


def _link_redis(directory: Path) -> str:
    """Find Redis in Debian's redis-tools, which starts no service of its own, as redis-server's package would.

    One program is server and tool, and goes by the name that it is called by.
    """
    link = directory / "redis-server"
    link.unlink(missing_ok=True)
    link.symlink_to(find_program("redis-check-rdb"))
    return str(link)


def find_program(name: str) -> str:
    """Find a server's program.

    Raises:
        ServerFailed: it isn't installed.
    """
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
    if found is None:
        raise ServerFailed(
            f"{name} isn't installed: `scripts/setup --packages {_PACKAGES[name]}` installs it on Debian"
        )
    return found


_PACKAGES = {"redis-check-rdb": "redis-tools", "mariadbd": "mariadb-server-core"}
