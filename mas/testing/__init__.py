"""A real cluster of processes, for your tests and for `mas demo`."""

from mas.testing.local_cluster import LocalCluster

__all__ = ["LocalCluster"]
