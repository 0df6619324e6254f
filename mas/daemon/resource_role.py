"""The resource manager of a process: its log and database, the Raft host, and the replicas of this node's buckets.

It stops edges first: the tools' server, then leadership is given away, then the actors stop, then the stores are closed.
"""

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial

from mas.api import ClusterSecret, TransactionServicer
from mas.channels import Channel
from mas.daemon.parts import NodeParts, Running, Starting
from mas.daemon.replicas import ReplicaParts, Replicas
from mas.multiraft import HostConfig, RaftHost, WorkerThread
from mas.resource import ReplicaAdmin, ResourceSettings
from mas.rpc.server import BucketServer
from mas.storage.open import check_version, open_account_db, open_raft_log

_log = logging.getLogger(__name__)

_TRANSFER_SECONDS = 0.5
_POLL_SECONDS = 0.01


class ResourceRole(Running):
    """A resource manager at work."""

    def __init__(self, started: AsyncExitStack, host: RaftHost) -> None:
        super().__init__(started)
        self.host = host


async def start(parts: NodeParts) -> ResourceRole:
    """Start a resource manager, and its server for tools.

    Raises:
        MasError: a store can't be opened, or a port can't be listened on; what was started is stopped.
    """
    async with AsyncExitStack() as started:
        directory = parts.directory
        check_version(parts.config, directory.path)
        directory.check_log()
        log = open_raft_log(parts.config, directory.path)
        started.callback(log.close)
        directory.note_log()
        database = await open_account_db(parts.config, directory.path)
        started.push_async_callback(database.close)
        file_thread, log_thread = WorkerThread("snapshots"), WorkerThread("raft-log")
        started.callback(file_thread.close)
        started.callback(log_thread.close)
        host = RaftHost(
            _host_config(parts),
            log=log,
            log_thread=log_thread,
            peers=parts.transport,
            snapshots=database,
            file_thread=file_thread,
            clock=parts.clock,
            dice=parts.dice,
        )
        await host.finish_snapshots()
        members = ReplicaAdmin(parts.config.node.id, host)
        server = BucketServer(parts.transport, members.answer)
        replica_parts = ReplicaParts(
            parts.membership,
            host,
            database,
            server,
            members,
            parts.buckets,
            proposer=int.from_bytes(parts.dice.randbytes(7), "big"),
        )
        starting = Starting("resource manager", parts, started)
        replicas = Replicas(
            parts.config.node.id,
            replica_parts,
            parts.clock,
            _settings(parts),
            starting.supervisor,
        )
        await replicas.open_all()
        parts.transport.on_frame(Channel.RAFT, host.on_frame)
        parts.transport.on_frame(Channel.SNAPSHOT, host.on_snapshot_frame)
        parts.transport.on_frame(Channel.REQUEST, server.on_frame)
        parts.transport.on_peer(host.on_peer)
        starting.spawn(host)
        starting.spawn(replicas)
        started.push_async_callback(partial(_give_leadership_away, parts, host))
        tools = TransactionServicer(parts.buckets, ClusterSecret(parts.secret))
        await starting.serve(parts.config.listen.rm, tools, parts.node_service())
        return ResourceRole(started.pop_all(), host)


def _host_config(parts: NodeParts) -> HostConfig:
    config = parts.config
    return HostConfig(
        node=config.node.id,
        snapshot_folder=parts.directory.path / "snapshots",
        tick_ms=config.raft.tick_ms,
        heartbeat_tick=config.raft.heartbeat_tick,
        election_tick=config.raft.election_tick,
        log_write_seconds=config.storage.log_write_seconds,
        log_margin_entries=config.storage.log_margin_entries,
        log_margin_seconds=config.storage.log_margin_seconds,
    )


def _settings(parts: NodeParts) -> ResourceSettings:
    config = parts.config
    return ResourceSettings(
        cluster=config.node.cluster_id,
        buckets=parts.bucket_count,
        lock_timeout=config.lock_timeout_seconds,
        read_patience=config.read_patience_seconds,
        cached_rows=config.storage.cache_accounts,
        unflushed=config.storage.flush_backlog_rows_max,
    )


async def _give_leadership_away(parts: NodeParts, host: RaftHost) -> None:
    """Spare the others an election: have them lead what this node leads."""
    if len(parts.membership.roster.nodes()) < 2:
        return
    host.transfer_leadership()
    try:
        async with asyncio.timeout(_TRANSFER_SECONDS):
            while any(group.status().leading for group in host.groups.values()):
                await parts.clock.sleep(_POLL_SECONDS)
    except TimeoutError:
        _log.info("stopping while leading: nobody took over in time")
