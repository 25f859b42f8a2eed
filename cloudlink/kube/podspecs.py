"""Where each kind describes the pods that it stands for. Pure."""

from __future__ import annotations

from cloudlink.kube.apps import DaemonSet, Deployment, ReplicaSet, StatefulSet
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.pod import Pod, PodSpec
from cloudlink.kube.replication import ReplicationController


def pod_spec_of(obj: KubeObject | None) -> tuple[str, PodSpec] | None:
    """The path in the object at which its pods are described, and the description; None where it has no pods."""
    match obj:
        case Pod():
            return "spec", obj.spec
        case Deployment() | ReplicaSet() | DaemonSet() | StatefulSet() | ReplicationController() | Job():
            return "spec.template.spec", obj.spec.template.spec
        case CronJob():
            return "spec.jobTemplate.spec.template.spec", obj.spec.job_template.spec.template.spec
        case _:
            return None
