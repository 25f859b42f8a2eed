"""Fleets and workloads to pack: generated from a seed, or published. For the benches and for the tests of quality."""
