"""Hub, broker and nodes in one process under virtual time, with seeded faults: docs/simulation.md."""
