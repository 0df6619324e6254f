"""What connects the nodes of a cluster: the peer transport, its channels, TLS, and the way to a bucket's leader."""
