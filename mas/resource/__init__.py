"""The Resource Manager: a node's buckets, served.

`ResourceManager` is the node's door, `AccountService` the actor behind it for each bucket.
"""

from mas.resource.actor import AccountService, Ports, ResourceSettings, writer_mark
from mas.resource.manager import ResourceManager
from mas.resource.members import MembersDoor

__all__ = [
    "AccountService",
    "MembersDoor",
    "Ports",
    "ResourceManager",
    "ResourceSettings",
    "writer_mark",
]
