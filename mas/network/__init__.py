"""What connects the nodes of a cluster: the peer transport and TLS."""
