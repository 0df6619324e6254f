"""The raft log of a node: one group's log as a value (`value`), and the engines that keep all groups' logs."""
