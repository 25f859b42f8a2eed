"""A small client of the hub's API: a kubeconfig in, JSON out, on the standard library alone."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edged.errors import PermanentError, RetryError

JSON = Mapping[str, Any]


class HubClient:
    """:param kubeconfig: a file with one cluster and one user, token or nothing (kubeconfig v1).
    :ivar namespace: of documents and commands that name none: the current context's.
    """

    def __init__(self, kubeconfig: Path, timeout: float = 30.0) -> None:
        import yaml

        try:
            config = yaml.safe_load(kubeconfig.read_text())
            cluster = config["clusters"][0]["cluster"]
            user = config["users"][0]["user"]
            self.server: str = cluster["server"]
            authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
            self._token: str = user.get("token", "")
            self.namespace = _namespace_of(config)
        except FileNotFoundError as e:
            raise PermanentError(f"{kubeconfig} does not exist; `edgehub kubeconfig` writes one") from e
        except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError) as e:
            raise PermanentError(f"{kubeconfig} is not a kubeconfig that edgectl understands: {e!r}") from e
        self._context = ssl.create_default_context(cadata=authority)
        self._timeout = timeout

    def call(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        """One request. PermanentError carries the hub's own sentence; RetryError means it can't be reached."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": accept}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), content_type
        request = urllib.request.Request(self.server + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout, context=self._context) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as e:
            raise PermanentError(explain(e)) from e
        except (urllib.error.URLError, OSError) as e:
            raise RetryError(f"the hub at {self.server} does not answer: {getattr(e, 'reason', e)}") from e
        try:
            return json.loads(raw)
        except ValueError:
            return raw.decode(errors="replace")


def _namespace_of(config: JSON) -> str:
    current = config.get("current-context")
    contexts = config.get("contexts") or ()
    chosen: JSON = next((c["context"] for c in contexts if c.get("name") == current), {})
    return str(chosen.get("namespace") or "default")


def explain(error: urllib.error.HTTPError) -> str:
    """The message of a Kubernetes Status, its causes one a line."""
    raw = error.read()
    try:
        status = json.loads(raw)
        details = status.get("details") or {}
        causes = details.get("causes") or []
        if not causes:
            return str(status["message"])
        lines = [f"  {c.get('field', '')}: {c.get('message', '')}" for c in causes]
        return "\n".join([f'{details.get("kind", "object")} "{details.get("name", "")}" is invalid:', *lines])
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"HTTP {error.code}: {raw[:200].decode(errors='replace')}"
