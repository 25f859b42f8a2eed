"""Benchmarks: `make bench`, one JSON object a line, each number beside a floor or a peer from the same run.

The peers' numbers that can't be measured here (no engine runs on every machine) are quoted in the README with their
conditions; what stands in `floor` was measured seconds before or after `value` on the same machine.
"""
