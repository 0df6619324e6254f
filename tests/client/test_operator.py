"""The operator's client: what a server raises it raises, and a server that isn't there is told in time."""

import asyncio
from pathlib import Path

import pytest

from mas import errors
from mas.client.operator import OperatorClient
from tests.api.edge import SECRET
from tests.api.test_node_service import JOINER, Operations, operating

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("there is no bucket 7"),
        errors.InvalidRequest("it still holds replicas"),
        errors.Unavailable("no leader"),
        errors.DeadlineExceeded("not done in time"),
    ],
)
async def test_what_the_operations_raise_the_client_raises(error: errors.MasError) -> None:
    operations = Operations()
    operations.fails = error
    async with operating(operations) as operator:
        for call in (
            operator.add_node("mas", JOINER, ()),
            operator.retire_node(4),
            operator.replicas(1),
            operator.replica(1, 1),
            operator.add_replica(1, 1),
            operator.remove_replica(1, 1),
            operator.transfer_leader(1, 1),
        ):
            with pytest.raises(type(error), match=str(error)):
                await call


async def test_a_wrong_secret_and_a_wrong_address_are_told() -> None:
    async with operating(Operations(), b"another secret of thirty-two bytes") as operator:
        with pytest.raises(errors.Unauthenticated):
            await operator.cluster()
    async with OperatorClient("127.0.0.1:1", secret=SECRET, ca=None, timeout=0.2) as operator:
        with pytest.raises(errors.Unavailable, match=r"no connection to 127\.0\.0\.1:1"):
            async with asyncio.timeout(5):
                await operator.cluster()


async def test_a_ca_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"nowhere\.crt can't be read"):
        async with OperatorClient("h:1", secret=SECRET, ca=tmp_path / "nowhere.crt"):
            pass
