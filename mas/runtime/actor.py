"""The shape of an actor: a name, and a loop that works on state which nobody else changes."""

from abc import ABC, abstractmethod


class Actor(ABC):
    """Owns state on the process's one event loop.

    Only the actor's own methods change its state: its `run`, and public methods that others call on the loop. A public
    method never awaits between reading state and writing what follows from it, so that no other task sees or changes the
    state in between. Work that has to wait goes into a mailbox, for `run` to take up.

    A supervisor spawns `run`, and cancels it to stop it: `run` never returns by itself, and an exception out of it stops
    the process (fail stop).
    """

    name: str

    @abstractmethod
    async def run(self) -> None:
        """Do the actor's work until cancelled."""
