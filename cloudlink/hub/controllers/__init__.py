"""Controllers: pure functions from objects to changes."""
