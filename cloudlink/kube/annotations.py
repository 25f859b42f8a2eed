"""Annotations that mean something here, beyond Kubernetes' own fields; what those of a pod ask of edged.

devices.edged.dev/<container>: "name, name"          devices of the board, by their stable names
logs.edged.dev/target: memory | disk | journald      where the pod's logs are kept
edged.dev/requests, edged.dev/requests-bound         see `learned`

What those of a Deployment ask is in `rollouts`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from cloudlink.kube import learned, names
from cloudlink.kube.container import DEVICE_PREFIX, Container
from cloudlink.kube.findings import Findings
from cloudlink.kube.pod import PodSpec
from edged.model import LogTarget

DEVICES = "devices.edged.dev/"
LOGS = "logs.edged.dev/"
LOG_TARGET = LOGS + "target"
TARGETS = tuple(sorted(LogTarget))
MAX_DEVICES = 64  # of one container; a board has fewer

# Of Deployments, written by people.
OURS = "edged.dev/"
ROLLBACK = OURS + "rollback"
WAVES = OURS + "waves"
WAVE_HOLD = OURS + "wave-hold"
PROVEN_AFTER = OURS + "proven-after"
CONFIRM = OURS + "confirm"
ROLLOUT_POLICY = (ROLLBACK, WAVES, WAVE_HOLD, PROVEN_AFTER)
OF_DEPLOYMENTS = (*ROLLOUT_POLICY, CONFIRM)
# Of their ReplicaSets, written by the hub. `kubectl rollout undo` copies them to Deployments; there they say nothing.
SUCCEEDED = OURS + "succeeded"  # as which revision all of its pods were available
RESTORED = OURS + "restored"  # as which revision it was rolled out again in place of one that failed
WAVE = OURS + "wave"  # how far the waves are
ROLLOUT_STATE = (SUCCEEDED, RESTORED, WAVE)

# Of the Jobs of a CronJob that are made before their time, and of their pods; written by the hub.
START_AT = OURS + "start-at"  # not before this second (RFC 3339), by the clock of whoever starts it
START_BY = OURS + "start-by"  # not after this one, where there is a startingDeadlineSeconds
START_ON = OURS + "start-on"  # the node that is to have it
START_OF = OURS + "start-of"  # the CronJob's generation that it was made by
TURN = OURS + "turn"  # pods with the same one follow each other
TURN_POLICY = OURS + "turn-policy"  # a concurrencyPolicy: how they do
OF_STARTS = (START_AT, START_BY, TURN, TURN_POLICY)
QUEUED = OURS + "queued"  # label: no room is set aside for it, as one before it has it
MISSED = "MissedStart"  # status.reason of a pod whose node won't start it any more; edged.decide.turns says so


def devices_of(container: Container, annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the devices that a container claims, by resource or by annotation, sorted, each once."""
    by_resource = (
        name.removeprefix(DEVICE_PREFIX)
        for name, count in container.resources.limits.items()
        if name.startswith(DEVICE_PREFIX) and count != "0"
    )
    return tuple(sorted({*by_resource, *_listed(annotations.get(DEVICES + container.name, ""))}))


def log_target(annotations: Mapping[str, str]) -> LogTarget:
    """Memory where nothing (or nothing that we know) is said."""
    wanted = annotations.get(LOG_TARGET, "")
    return LogTarget(wanted) if wanted in TARGETS else LogTarget.MEMORY


def _listed(text: str) -> Iterable[str]:
    return filter(None, (name.strip() for name in text.split(",")))


def check_annotations(annotations: Mapping[str, str], spec: PodSpec, path: str, found: Findings) -> None:
    """What is wrong with those that are ours; `path` is that of the annotations."""
    containers = [c.name for c in (*spec.init_containers, *spec.containers)]
    learned.check(annotations, spec, path, found)
    for key, value in annotations.items():
        here = f"{path}[{key}]"
        if key.startswith(DEVICES):
            _devices(key, value, containers, here, found)
        elif key == LOG_TARGET:
            if value not in TARGETS:
                found.unsupported(here, value, TARGETS)
        elif key.startswith(LOGS):
            found.invalid(here, value, f"no such annotation; did you mean {LOG_TARGET}?")


def _devices(key: str, value: str, containers: list[str], path: str, found: Findings) -> None:
    container = key.removeprefix(DEVICES)
    if container not in containers:
        close = difflib.get_close_matches(container, containers, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        found.not_found(path, container, f"no container of the pod has this name{hint}")
    listed = [name.strip() for name in value.split(",")]
    if len(listed) > MAX_DEVICES:
        found.too_long(path, MAX_DEVICES, "devices")
        return
    for name in listed:
        if why := names.device_name(name):
            found.invalid(path, name, why)
