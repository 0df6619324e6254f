"""A bucket, served."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from mas.ledger import rules
from mas.runtime import Supervisor
from tests.resource.harness import World


@pytest.fixture(autouse=True)
def _every_number_is_at_home_here() -> Iterator[None]:
    """So that a creation is one entry, whatever the number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "home_bucket", lambda number, buckets: 1)
        yield


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.open()
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        world.group.lead()
        await world.until(lambda: world.group.entries)  # Genesis
        yield world
