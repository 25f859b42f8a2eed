"""Everything that knows there is a cloud: the wire, trust, the hub, the operator's tools.

May import edged.model, edged.errors, edged.uplink and edged.config; never the rooms that run containers.
"""
