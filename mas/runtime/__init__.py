"""What every actor stands on: clock, dice, mailbox, promise, supervisor, and named points to die at."""

from mas.runtime.actor import Actor
from mas.runtime.clock import Clock, SystemClock
from mas.runtime.dice import Dice, SystemDice
from mas.runtime.failpoints import failpoint
from mas.runtime.mailbox import Mailbox, MailboxStatistics
from mas.runtime.promise import Promise
from mas.runtime.supervisor import Supervisor

__all__ = [
    "Actor",
    "Clock",
    "Dice",
    "Mailbox",
    "MailboxStatistics",
    "Promise",
    "Supervisor",
    "SystemClock",
    "SystemDice",
    "failpoint",
]
