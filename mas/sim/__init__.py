"""The simulator: virtual time, so far."""

from mas.sim.clock import VirtualClock
from mas.sim.loop import Deadlock, VirtualLoop, run_virtual

__all__ = ["Deadlock", "VirtualClock", "VirtualLoop", "run_virtual"]
