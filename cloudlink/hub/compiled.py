"""Pods as nodes are told of them, each compiled once, and equal parts held once.

A node's document is made anew whenever one of its pods changes, and most of its pods haven't. The pods of a ReplicaSet
differ in name, uid and node alone: the first one is compiled, the others are copies of it with their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from cloudlink.hub.objects import controller_of
from cloudlink.kube import compile_pod as compiling
from cloudlink.kube.compile_pod import Claims
from cloudlink.kube.core import Pod, PodSpec
from edged import model

_OWN = frozenset({"node_name"})  # what a spec has that its node isn't told


class _Kept(NamedTuple):
    """What was compiled, of the pod's parts: its old states are nobody's to keep."""

    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: PodSpec
    made: model.Pod


class Compiled:
    """Bounded by the pods that are asked for and by their controllers; `forget` those that are gone."""

    def __init__(self) -> None:
        self._pods: dict[str, _Kept] = {}  # by uid
        self._likes: dict[str, _Kept] = {}  # by the uid of the controller

    def pod(self, pod: Pod, claims: Claims) -> model.Pod:
        """What compile_pod says."""
        uid = pod.metadata.uid
        if any(v.persistent_volume_claim is not None for v in pod.spec.volumes):
            return compiling.compile_pod(pod, claims)  # it depends on more than the pod
        known = self._pods.get(uid)
        if known is not None and _alike(known, pod):
            return known.made
        owner = controller_of(pod)
        like = self._likes.get(owner.uid) if owner is not None else None
        if like is not None and _alike(like, pod):
            meta = pod.metadata
            made = replace(like.made, name=meta.name, uid=uid, hostname=compiling.host_name(pod))
        else:
            made = compiling.compile_pod(pod, claims)
            if owner is not None:
                self._likes[owner.uid] = _kept(pod, made)
        self._pods[uid] = _kept(pod, made)
        return made

    def forget(self, uid: str) -> None:
        """A pod, or a controller, is gone."""
        self._pods.pop(uid, None)
        self._likes.pop(uid, None)


def _kept(pod: Pod, made: model.Pod) -> _Kept:
    meta = pod.metadata
    return _Kept(meta.namespace, meta.labels, meta.annotations, pod.spec, made)


def _alike(known: _Kept, pod: Pod) -> bool:
    """Whether a pod says the same but for its names. Most parts of such pods are the very same objects (hub.sharing),
    so comparing them costs next to nothing."""
    meta = pod.metadata
    if (known.namespace, known.labels, known.annotations) != (meta.namespace, meta.labels, meta.annotations):
        return False
    theirs = pod.spec.__dict__
    return known.spec is pod.spec or all(
        value is theirs[name] or value == theirs[name]
        for name, value in known.spec.__dict__.items()
        if name not in _OWN
    )
