"""Faults of a cluster of bare Raft groups, and the hand that strikes with them."""

from mas.sim.faults.nemesis import Nemesis
from mas.sim.faults.victims import Victim, Victims, attempt

__all__ = ["Nemesis", "Victim", "Victims", "attempt"]
