"""The whole system in the simulator: clients, coordinators, lock services, resource managers and ledgers over the Raft host."""
