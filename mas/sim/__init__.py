"""The simulator: production actors on virtual time, between simulated networks, disks, clocks and dice.

    mas sim --seed 7                one cluster, one seed, one run
    run.simulate(7, Options())      the same from a test

A run ends with its verdict: the first promise that was broken, or that all were kept. `docs/simulator.md` lists them.
"""

from mas.sim.clock import VirtualClock
from mas.sim.loop import Deadlock, VirtualLoop, run_virtual

__all__ = ["Deadlock", "VirtualClock", "VirtualLoop", "run_virtual"]
