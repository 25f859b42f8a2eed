"""Which container, on which node; and what kubelet says where there is none. Pure.

From kube-apiserver's pod strategy (which container is meant) and kubelet's log handling (whether it has a log).
"""

from __future__ import annotations

from cloudlink.hub.api.answers import bad_request
from cloudlink.kube.core import ContainerStatus, Pod


def container_of(pod: Pod, wanted: str) -> str:
    """The container that is meant: the one that is named, or the only one there is."""
    names = [c.name for c in (*pod.spec.init_containers, *pod.spec.containers)]
    if wanted:
        if wanted not in names:
            raise bad_request(f"container {wanted} is not valid for pod {pod.metadata.name}")
        return wanted
    if len(pod.spec.containers) == 1:
        return pod.spec.containers[0].name
    message = f"a container name must be specified for pod {pod.metadata.name}, choose one of: [{' '.join(names)}]"
    raise bad_request(message)


def node_of(pod: Pod) -> str:
    if not pod.spec.node_name:
        raise bad_request(f"pod {pod.metadata.name} does not have a host assigned")
    return pod.spec.node_name


def check_log(pod: Pod, container: str, previous: bool) -> None:
    """Refuse where the container has, as far as its node has told, nothing to show yet."""
    name = pod.metadata.name
    status = _status(pod, container)
    if status is None:
        raise bad_request(f'container "{container}" in pod "{name}" is not available')
    if previous:
        if status.last_state.terminated is None:
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
    elif status.state.running is None and status.state.terminated is None and status.last_state.terminated is None:
        waits = f'container "{container}" in pod "{name}" is waiting to start'
        reason = status.state.waiting.reason if status.state.waiting else ""
        raise bad_request(f"{waits}{_WAITING.get(reason, f': {reason}')}" if reason else f"{waits} - no logs yet")


_WAITING = {
    "ErrImagePull": ": image can't be pulled",
    "ImagePullBackOff": ": trying and failing to pull image",
}


def _status(pod: Pod, container: str) -> ContainerStatus | None:
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return next((s for s in statuses if s.name == container), None)
