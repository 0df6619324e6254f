"""The engines of the TM store: `mas.coordinator.ports.TransactionStore`."""
