"""Two-phase commit as data: coordinator's and participant's side, and the messages between them."""
