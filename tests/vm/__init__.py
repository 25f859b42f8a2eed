"""Debian with systemd and cgroup v2 in an emulator: what no test on a build machine can show (see README.md)."""
