"""What a pod may know of itself: fields and numbers as text, for environments and downward volumes (pure).

The texts are Kubernetes' own (pkg/fieldpath, pkg/api/v1/resource): a whole map is one `key="value"` a line, sorted,
values quoted as Go's %q does; numbers are divided and rounded up; a limit that isn't set is what the node has for pods.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edged.errors import PermanentError, RetryError
from edged.model import Container, NodeFacts, Pod, ResourceRef

SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")
FIELDS = (
    "metadata.name, metadata.namespace, metadata.uid, metadata.labels, metadata.annotations, metadata.labels['<key>'],"
    " metadata.annotations['<key>'], spec.nodeName, spec.serviceAccountName, status.podIP, status.podIPs,"
    " status.hostIP, status.hostIPs"
)
RESOURCES = (
    "limits.cpu, limits.memory, limits.ephemeral-storage, requests.cpu, requests.memory, requests.ephemeral-storage"
)
WAIT_FOR_ADDRESS = 2.0  # seconds until a missing address is asked for again
GO_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def field_value(pod: Pod, field: str, ip: str, node: NodeFacts) -> str:
    """The text of a `fieldRef.fieldPath`. A label or annotation that the pod doesn't have is "".

    :param ip: the pod's address (the node's own for a pod in the host's network).
    :raises PermanentError: there is no such field. :raises RetryError: the address isn't known yet.
    """
    subscript = SUBSCRIPT.fullmatch(field)
    if subscript is not None:
        return (pod.labels if subscript[1] == "labels" else pod.annotations).get(subscript[2], "")
    match field:
        case "metadata.name":
            return pod.name
        case "metadata.namespace":
            return pod.namespace
        case "metadata.uid":
            return pod.uid
        case "metadata.labels":
            return map_text(pod.labels)
        case "metadata.annotations":
            return map_text(pod.annotations)
        case "spec.nodeName":
            return node.name
        case "spec.serviceAccountName":
            return pod.service_account or "default"
        case "status.podIP" | "status.podIPs":
            return _known(ip, field, pod)
        case "status.hostIP" | "status.hostIPs":
            return _known(node.address, field, pod)
    raise PermanentError(f"pod {pod.title} has no field {field!r} to refer to; use one of {FIELDS}")


def resource_value(pod: Pod, container: Container, ref: ResourceRef, node: NodeFacts) -> str:
    """The number of a `resourceFieldRef`, divided and rounded up.

    :param container: the one that asks; `ref.container` may name another one of the pod.
    :raises PermanentError: there is no such resource or container, or the divisor makes no sense.
    """
    whose = container
    if ref.container and ref.container != container.name:
        named = next((c for c in pod.all_containers if c.name == ref.container), None)
        if named is None:
            raise PermanentError(
                f"pod {pod.title} has no container '{ref.container}', which a resourceFieldRef of container"
                f" '{container.name}' names"
            )
        whose = named
    if ref.divisor <= 0:
        raise PermanentError(f"the divisor of {ref.resource} in pod {pod.title} must be more than 0")
    return str(-(-_thousandths(pod, whose, ref.resource, node) // ref.divisor))


def map_text(values: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={_quoted(values[key])}" for key in sorted(values))


def _thousandths(pod: Pod, container: Container, resource: str, node: NodeFacts) -> int:
    limits = container.limits
    match resource:
        case "limits.cpu":
            return node.cpu if limits.cpu_limit is None else limits.cpu_limit
        case "limits.memory":
            return 1000 * (node.memory if limits.memory_limit is None else limits.memory_limit)
        case "limits.ephemeral-storage":
            return 1000 * (node.storage if limits.storage_limit is None else limits.storage_limit)
        case "requests.cpu":
            return limits.cpu_request
        case "requests.memory":
            return 1000 * limits.memory_request
        case "requests.ephemeral-storage":
            return 1000 * limits.storage_request
    raise PermanentError(f"pod {pod.title} refers to resource {resource!r}; use one of {RESOURCES}")


def _known(address: str, field: str, pod: Pod) -> str:
    if not address:
        raise RetryError(f"{field}, which pod {pod.title} refers to, is not known yet", after=WAIT_FOR_ADDRESS)
    return address


def _quoted(text: str) -> str:
    """Go's strconv.Quote."""
    return '"' + "".join(_escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character in GO_ESCAPES:
        return GO_ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
