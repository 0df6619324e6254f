"""A program of a test or a benchmark: a process that writes to a log file, and may be killed and started again."""

import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

_STOP_SECONDS = 10.0


class Program:
    """One process at a time, and what is needed to start it again."""

    def __init__(self, command: Sequence[str], log_file: Path) -> None:
        self.log_file = log_file
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def is_running(self) -> bool:
        """Tell whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, environment: dict[str, str] | None = None) -> None:
        """Start the process, without waiting until it is ready."""
        assert not self.is_running(), f"{self._command} runs already"
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the caller's own command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                start_new_session=True,  # A Ctrl-C is for whoever holds it, who then ends it.
            )

    def signal(self, number: int) -> None:
        """Send the process a signal, if it lives."""
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for the process to end; its exit status. Raises `subprocess.TimeoutExpired`."""
        assert self._process is not None
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL: the process has no chance to do anything more."""
        self.signal(signal.SIGKILL)
        self.wait(_STOP_SECONDS)

    def log(self) -> str:
        """Read what the process has printed since its last start."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


def end_all(programs: Iterable[Program]) -> None:
    """Ask them all to end, and kill those that don't."""
    started = [program for program in programs if program.pid]
    for program in started:
        program.signal(signal.SIGCONT)
        program.signal(signal.SIGTERM)
    for program in started:
        try:
            program.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
