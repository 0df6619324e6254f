"""The Transaction Coordinator: drives payments through two-phase commit, in batches."""

from mas.coordinator.actor import (
    CoordinatorSettings,
    CoordinatorStatistics,
    Ports,
    TransactionCoordinator,
)
from mas.coordinator.ports import Locks, TransactionStore

__all__ = [
    "CoordinatorSettings",
    "CoordinatorStatistics",
    "Locks",
    "Ports",
    "TransactionCoordinator",
    "TransactionStore",
]
