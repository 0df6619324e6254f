"""The Resource Manager: a node's buckets, served.

`ResourceManager` is the node's door, `AccountService` the actor behind it for each bucket.
"""

from mas.resource.actor import AccountService, Ports, ResourceSettings, writer_mark
from mas.resource.manager import ResourceManager
from mas.resource.members import ReplicaAdmin

__all__ = [
    "AccountService",
    "Ports",
    "ReplicaAdmin",
    "ResourceManager",
    "ResourceSettings",
    "writer_mark",
]
