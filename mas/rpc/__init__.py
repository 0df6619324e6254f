"""How nodes ask buckets: the messages, the client that finds a bucket's leader, and the server in front of a node's buckets."""
