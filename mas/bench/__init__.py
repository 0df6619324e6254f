"""The benchmarks: `mas bench` measures payments, `mas bench raft` consensus alone, `mas bench storage` the AccountDB."""
