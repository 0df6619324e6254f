"""Who gets how many of the files that this process may have open: storage and peers what they need, callers the rest.

A socket is a file. Without a share, whoever opens idle connections to the API takes the descriptors that the database
opens its next file with.
"""

import resource

_FILES_MAX = 1 << 20
"""More than Linux gives a process by default, at most."""
_RESERVED = 768
"""For storage, and for the peer port with the strangers at it."""
_CONNECTIONS_MAX = 4_096
_CONNECTIONS_MIN = 16
_SERVERS = 4
"""gRPC servers of a node that does everything."""


def raise_file_limit() -> None:
    """Take all that the system grants without asking: the soft limit becomes the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_of_a_server() -> int:
    """Return how many connections one gRPC server may have, so that storage and peers never lack a file for them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_CONNECTIONS_MIN, min(_CONNECTIONS_MAX, (soft - _RESERVED) // _SERVERS))
