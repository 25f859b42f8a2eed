"""What this node can be asked from far away (edged.model.remote), carried out: logs, exec, attach, connect, usage.

Who may ask is not its business: whoever carries the conversations sees to that. It never changes what the node runs.
"""
