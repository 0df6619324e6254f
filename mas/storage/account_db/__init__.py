"""AccountDB engines behind `mas.resource.ports.AccountDB`, and the snapshot file that they share."""
