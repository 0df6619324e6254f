"""The Resource Manager: a node's buckets, served.

`AccountService` is the actor of each bucket; `ReplicaAdmin` answers for the node's replicas.
"""

from mas.resource.members import ReplicaAdmin
from mas.resource.replica import writer_mark
from mas.resource.service import AccountService, Ports
from mas.resource.settings import ResourceSettings

__all__ = [
    "AccountService",
    "Ports",
    "ReplicaAdmin",
    "ResourceSettings",
    "writer_mark",
]
