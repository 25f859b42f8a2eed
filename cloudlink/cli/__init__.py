"""edgectl, the operator's command line: join a node, apply manifests where kubectl is not at hand, run the demo.

Processes that end. Talks to the hub through its API only, as any other client does.
"""
