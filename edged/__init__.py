"""The node: runs containers under tight memory budgets, heals them, and needs nobody's permission to do so.

Knows nothing of clouds, MQTT or Kubernetes words; `cloudlink` builds on this package, never the reverse.
The heart is one shape: `decide` turns values into frozen steps, `apply` carries them out, and whatever
happens comes back as an observation.
"""

__version__ = "0.1.0"
