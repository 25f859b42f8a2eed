"""Fakes: code with a contract that the real thing passes too."""
