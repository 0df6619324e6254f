"""The lock service over gRPC, and what its locks do to payments, in a cluster of real processes."""

import asyncio
from pathlib import Path

import grpc
import pytest

from mas.api.tokens import Role
from mas.testing import LocalCluster
from mas.testing.audit import audit
from mas.wire.gen.mas.v1 import lock_pb2 as pb
from mas.wire.gen.mas.v1 import lock_pb2_grpc as pb_grpc

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


Metadata = tuple[tuple[str, str], ...]


async def acquire(locks: pb_grpc.LockServiceStub, metadata: Metadata) -> pb.AcquireLockReply:
    """Alice's lock, as soon as the service is at work."""
    request = pb.AcquireLockRequest(lock_ids=["alice"], owner="audit", mode=pb.LOCK_MODE_EXCLUSIVE)
    while True:
        try:
            return await locks.AcquireLock(request, timeout=10, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


@pytest.mark.asyncio
async def test_an_exclusive_lock_keeps_payments_out_until_it_is_released() -> None:
    """Rules 33, 34: the payment meets the mark, queues behind it, and passes when it is gone."""
    async with (
        LocalCluster(resource_managers=1, lock_timeout_seconds=30.0) as cluster,
        cluster.client("operator:x", Role.GATEWAY) as client,
    ):
        for number in ("alice", "bob"):
            assert (await client.create_account(number, 100)).receipt.committed
        credentials = grpc.ssl_channel_credentials(
            Path(cluster.directory / "tls" / "ca.crt").read_bytes()
        )
        address = cluster.transaction_manager.lock_address
        metadata = (("authorization", cluster.token("operator:x")),)
        async with grpc.aio.secure_channel(address, credentials) as channel:
            locks = pb_grpc.LockServiceStub(channel)
            granted = await acquire(locks, metadata)
            assert [token.lock_id for token in granted.tokens] == ["alice"]
            impatient = await client.pay("alice", "bob", 1, key="impatient", timeout=1.0)
            assert not impatient.committed
            paying = asyncio.gather(client.pay("alice", "bob", 1, key="patient", timeout=30))
            elsewhere = await client.pay("bob", "@external", 1)
            assert elsewhere.committed
            await locks.ReleaseLock(
                pb.ReleaseLockRequest(owner="audit"), timeout=10, metadata=metadata
            )
            (receipt,) = await paying
            assert receipt.committed
        await audit(client)
