"""The engines behind the services' ports: raft log, AccountDB, TM store. Import the module of the one you need."""
