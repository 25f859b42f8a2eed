"""edged.dev/v1 Fit: will it fit, before it is applied. Posted, answered in `status`, stored nowhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cloudlink.kube.meta import Many, Model, Report
from cloudlink.kube.reviews import Review


class FitSpec(Model):
    """:ivar manifest: YAML or JSON, any number of documents; those that name no namespace are meant for the Fit's own.
    "" asks only how the fleet is packed now.
    """

    manifest: str = ""


class FitWorkload(Report):
    """What becomes of one object that has pods. Maps: node -> how many pods.

    :ivar asked: it is in the manifest; otherwise it is one that has to give way, or moves.
    :ivar pods: how many it wants. :ivar placed: how many of these have a place in the end.
    :ivar stay: pods that run now and are left alone.
    :ivar nodes: where new pods go. :ivar ended: where pods that run now are ended.
    :ivar waiting: pods without a node in the end; `why` is the scheduler's sentence, or the controller's.
    :ivar stuck: pods of an old revision that stay because the rollout can't go on.
    """

    kind: str
    namespace: str
    name: str
    asked: bool = True
    pods: int = 0
    placed: int = 0
    stay: int = 0
    nodes: dict[str, int] = Field(default={})
    ended: dict[str, int] = Field(default={})
    waiting: int = 0
    stuck: int = 0
    why: str = ""


class FitVictim(Report):
    """A pod that would be ended so that `by`, whose priority is higher, has its room."""

    namespace: str
    name: str
    node: str
    priority: int = 0
    by: str = ""


class FitNode(Report):
    """Memory in bytes, CPU in thousandths of a core. `...Used`: what the requests of its pods take now; `...New`: what
    they would take more, or below 0 less."""

    name: str
    ready: bool = False
    memory: int = 0
    memory_used: int = 0
    memory_new: int = 0
    cpu: int = 0
    cpu_used: int = 0
    cpu_new: int = 0
    pods: int = 0
    pods_used: int = 0
    pods_new: int = 0


class FitStatus(Report):
    """:ivar hidden: pods that would be ended in namespaces whose pods the asker may not list.
    :ivar nodes: only for who may list nodes. :ivar occupied: nodes with pods that ask for something, afterwards.
    :ivar needed: fewer nodes can't hold what these pods ask for (a lower bound).
    """

    fits: bool = True
    workloads: Many[FitWorkload] = ()
    preempted: Many[FitVictim] = ()
    hidden: int = 0
    nodes: Many[FitNode] = ()
    occupied: int = 0
    needed: int = 0


class Fit(Review):
    """Asks what would become of a manifest, without applying it: what fits where, who would have to go."""

    api_version: Literal["edged.dev/v1"] = "edged.dev/v1"
    kind: Literal["Fit"] = "Fit"
    spec: FitSpec = FitSpec()
    status: FitStatus = FitStatus()
