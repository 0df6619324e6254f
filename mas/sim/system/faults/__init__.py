"""Faults of the whole system, and the hand that strikes with them."""

from mas.sim.system.faults.nemesis import Nemesis

__all__ = ["Nemesis"]
