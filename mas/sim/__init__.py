"""The simulator: production actors on virtual time, between simulated networks, disks, clocks and dice.

mas sim --seed 7            one cluster, one seed, one run
simulate(7, Options())      the same from a test
"""

from mas.sim.clock import VirtualClock
from mas.sim.loop import Deadlock, VirtualLoop, run_virtual

__all__ = ["Deadlock", "VirtualClock", "VirtualLoop", "run_virtual"]
