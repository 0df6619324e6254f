"""A real cluster of processes, and servers beside it, for your tests and for `mas demo`."""

from mas.testing.local_cluster import LocalCluster
from mas.testing.servers import MariaDbServer, RedisServer

__all__ = ["LocalCluster", "MariaDbServer", "RedisServer"]
