"""The raft log of a node: one group's log as a value (`value`), what its engines share (`engine`), and the engines."""
