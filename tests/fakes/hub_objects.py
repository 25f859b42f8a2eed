"""Small Kubernetes objects for the hub's tests, as a person would have written them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import parse


def _object(api_version: str, kind: str, name: str, namespace: str, **rest: Any) -> KubeObject:
    """Skips parse() for the empty names that some tests are about."""
    metadata = {"name": name or "placeholder"} | ({"namespace": namespace} if namespace else {})
    metadata |= rest.pop("metadata", {})
    obj = parse({"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest})
    if name:
        return obj
    return obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"name": ""})})


def template(labels: Mapping[str, str], image: str = "demo:1") -> dict[str, Any]:
    return {"metadata": {"labels": dict(labels)}, "spec": {"containers": [{"name": "main", "image": image}]}}


def pod(name: str, namespace: str = "default", image: str = "demo:1", **metadata: Any) -> KubeObject:
    return _object("v1", "Pod", name, namespace, metadata=metadata, spec=template({}, image)["spec"])


def deployment(name: str, replicas: int, namespace: str = "default", image: str = "demo:1") -> KubeObject:
    labels = {"app": name}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template(labels, image)}
    return _object("apps/v1", "Deployment", name, namespace, spec=spec)


def config(name: str, data: Mapping[str, str], namespace: str = "default") -> KubeObject:
    return _object("v1", "ConfigMap", name, namespace, data=dict(data))


def secret(name: str, data: Mapping[str, bytes], namespace: str = "default") -> KubeObject:
    encoded = {k: base64.b64encode(v).decode() for k, v in data.items()}
    return _object("v1", "Secret", name, namespace, data=encoded)


def node(name: str) -> KubeObject:
    return _object("v1", "Node", name, "")


def event(name: str, pod_name: str, namespace: str = "default") -> KubeObject:
    about = {"kind": "Pod", "namespace": namespace, "name": pod_name}
    return _object(
        "v1", "Event", name, namespace, involvedObject=about, reason="Tested", message="it was", type="Normal"
    )
