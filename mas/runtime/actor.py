"""The shape of an actor: a name and a loop. What it owns, only its loop changes."""

from abc import ABC, abstractmethod


class Actor(ABC):
    """An owner of state that others reach through its mailbox only.

    A supervisor spawns `run`, and cancels it to stop it: `run` never returns by itself, and an
    exception out of it stops the process (fail stop).
    """

    name: str

    @abstractmethod
    async def run(self) -> None:
        """Serve the mailbox until cancelled."""
