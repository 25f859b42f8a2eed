"""What nodes say of pods that fail, for a Cluster of one Deployment."""

from __future__ import annotations

from cloudlink.hub.changes import Update, UpdateStatus
from cloudlink.hub.decision import Note
from cloudlink.kube.core import Pod
from cloudlink.kube.pod import ContainerStatus
from tests.fakes.hub_brain import Cluster, reported, with_meta


def image_of(pod: Pod) -> str:
    return pod.spec.containers[0].image


def updated(cluster: Cluster, image: str) -> int:
    return sum(image_of(p) == image for p in cluster.pods)


def annotate(cluster: Cluster, annotations: dict[str, str]) -> None:
    there = cluster.deployment.metadata.annotations
    cluster.commit(Update(with_meta(cluster.deployment, annotations=there | annotations)))


def newest(cluster: Cluster, image: str = "") -> list[Pod]:
    wanted = image or cluster.deployment.spec.template.spec.containers[0].image
    return [p for p in cluster.pods if image_of(p) == wanted]


def say(cluster: Cluster, pod: Pod, ready: bool = False, **status: object) -> None:
    """One container `main`, in Kubernetes' JSON."""
    told = {"name": "main", "ready": ready, "restartCount": 0, "image": image_of(pod)} | status
    there = next((c for c in pod.status.container_statuses), None)
    if there is not None and "restartCount" not in status:
        told["restartCount"] = there.restart_count
    pod = reported(pod, cluster.clock.now, ready, "Running" if told["restartCount"] or ready else "Pending")
    containers = (ContainerStatus.model_validate(told),)
    cluster.commit(
        UpdateStatus(
            pod.model_copy(update={"status": pod.status.model_copy(update={"container_statuses": containers})})
        )
    )


def lose_image(cluster: Cluster) -> None:
    """The newest pods' image can't be pulled, for the second time."""
    for pod in newest(cluster):
        message = f'back-off pulling image "{image_of(pod)}": ErrImagePull: not found'
        say(cluster, pod, state={"waiting": {"reason": "ImagePullBackOff", "message": message}})


def crash(cluster: Cluster, restarts: int, count: int = 1000, image: str = "", reason: str = "Error") -> None:
    """The newest pods wait for their next start."""
    ended = {"exitCode": 137 if reason == "OOMKilled" else 3, "reason": reason}
    for pod in newest(cluster, image)[:count]:
        waiting = {"reason": "CrashLoopBackOff", "message": "it ended with exit code 3"}
        say(cluster, pod, restartCount=restarts, state={"waiting": waiting}, lastState={"terminated": ended})


def kill_for_memory(cluster: Cluster, count: int = 1) -> None:
    """Killed once at the memory limit, and running again."""
    for pod in newest(cluster)[:count]:
        there = sum(c.restart_count for c in pod.status.container_statuses)
        last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        say(cluster, pod, ready=True, restartCount=there + 1, state={"running": {}}, lastState=last)


def tell(cluster: Cluster) -> list[Note]:
    """Settle; what was told on the way."""
    notes: list[Note] = []
    for _ in range(100):
        before = cluster.revision
        decision = cluster.ask_deployment()
        cluster.commit(*decision.changes)
        notes += decision.notes
        for rs in cluster.sets:
            cluster.commit(*cluster.ask_set(rs).changes)
        cluster.bind_all()
        if cluster.revision == before:
            return notes
    raise AssertionError("the controllers don't come to an end")
