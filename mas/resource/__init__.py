"""The Resource Manager: a node's buckets, served.

`AccountService` is the actor of each bucket; `ReplicaAdmin` answers for the node's replicas.
"""

from mas.resource.actor import AccountService, Ports, ResourceSettings, writer_mark
from mas.resource.members import ReplicaAdmin

__all__ = [
    "AccountService",
    "Ports",
    "ReplicaAdmin",
    "ResourceSettings",
    "writer_mark",
]
