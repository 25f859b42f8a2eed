"""The page on the node: FastAPI in a process of its own, reading control.sock; never imported by the daemon."""
