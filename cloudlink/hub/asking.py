"""What `edgehub` asks of the running hub, on its own machine and as its administrator: only the hub writes to its
database."""

from __future__ import annotations

import http.client
import json
from typing import Any

from cloudlink import link
from cloudlink.hub.config import HubConfig, ipaddress_is_any
from cloudlink.hub.premises import admin_token, ca_pem
from edged.errors import PermanentError, RetryError


def ask(config: HubConfig, method: str, path: str, body: object = None) -> dict[str, Any]:
    """:raises PermanentError: the hub's own sentence.
    :raises RetryError: it does not answer.
    """
    host = "127.0.0.1" if ipaddress_is_any(config.host) else config.host
    context = link.hub_context(ca_pem(config.data))
    connection = http.client.HTTPSConnection(host, config.port, timeout=10.0, context=context)
    headers = {"Authorization": f"Bearer {admin_token(config.data)}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        told: dict[str, Any] = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise RetryError(f"the hub at {host}:{config.port} does not answer ({e}); is `edgehub run` running?") from e
    finally:
        connection.close()
    if answer.status >= 300:
        raise PermanentError(str(told.get("detail") or told.get("message") or told))
    return told
