"""The Kubernetes-style REST API: as much of it as kubectl needs, on top of the store and the kube models.

`create_app` (in `server`) makes the ASGI application. Pure parts (paths, selectors, merging, columns) know no
request; `reads`, `writes` and `deletes` know the store; only `server` knows HTTP.
"""

from cloudlink.hub.api.server import create_app, listen

__all__ = ["create_app", "listen"]
