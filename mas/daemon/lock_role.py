"""The locks of a process: the lock service on the one node where it is at work, the way to it on all others."""

from contextlib import AsyncExitStack

from mas.api import Authenticator, LockServicer
from mas.channels import Channel
from mas.daemon.parts import NodeParts, Running, Starting
from mas.locks import (
    ClientLocks,
    GlobalLockService,
    Leases,
    LockClient,
    LockServer,
    LockSettings,
    LockStore,
    join,
)


class LockRole(Running):
    """Locks, wherever they are granted."""

    def __init__(self, started: AsyncExitStack, leases: Leases) -> None:
        super().__init__(started)
        self.leases = leases


async def start(parts: NodeParts, store: LockStore, authenticator: Authenticator) -> LockRole:
    """Start the lock service or the way to it; and the server for clients, where that is this node's role.

    Raises:
        ConfigError: no node runs the lock service, or the port can't be listened on; what was started is stopped.
    """
    config = parts.config
    async with AsyncExitStack() as started:
        starting = Starting("locks", parts, started)
        where = config.lock_node()
        leases: Leases
        if where == config.node.id:
            service = _make_service(parts, store)
            door = LockServer(service, parts.transport, parts.clock)
            parts.transport.on_frame(Channel.LOCKS, join(door, None))
            starting.spawn(service)
            leases = service
        else:
            remote = LockClient(parts.transport, lambda: where, clock=parts.clock, dice=parts.dice)
            parts.transport.on_frame(Channel.LOCKS, join(None, remote))
            parts.transport.on_peer(remote.on_peer)
            leases = remote
        if config.node.role.runs_locks:
            clients = LockServicer(ClientLocks(leases, parts.clock), authenticator)
            await starting.serve(config.listen.gls, clients)
        return LockRole(started.pop_all(), leases)


def _make_service(parts: NodeParts, store: LockStore) -> GlobalLockService:
    return GlobalLockService(
        f"node {parts.config.node.id}",
        buckets=parts.buckets,
        store=store,
        clock=parts.clock,
        settings=LockSettings(buckets=parts.bucket_count, lease=parts.config.lock_timeout_seconds),
    )
