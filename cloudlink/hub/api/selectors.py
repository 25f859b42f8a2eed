"""Label and field selectors: `?labelSelector=app in (a,b),!old`, `?fieldSelector=status.phase!=Running`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloudlink.kube.apps import ReplicaSet
from cloudlink.kube.batch import Job
from cloudlink.kube.core import Event, Namespace, Node, Pod, Secret, Service
from cloudlink.kube.custom import CustomObject
from cloudlink.kube.jsonpath import find
from cloudlink.kube.meta import KubeObject, LabelSelectorRequirement
from cloudlink.kube.replication import ReplicationController

Predicate = Callable[[KubeObject], bool]


class SelectorError(ValueError):
    """The selector can't be understood; the message shows where."""


_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*(?:,|$)", re.ASCII)
_EQUAL = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*(?:,|$)", re.ASCII)
_EXISTS = re.compile(rf"\s*(!?)\s*({_KEY})\s*(?:,|$)", re.ASCII)


def label_requirements(text: str) -> tuple[LabelSelectorRequirement, ...]:
    """apimachinery's labels.Parse: =, ==, !=, in, notin, exists, !exists; comma means and."""
    found: list[LabelSelectorRequirement] = []
    at = 0
    while at < len(text) and text[at:].strip():
        if match := _SET.match(text, at):
            values = tuple(v.strip() for v in match[3].split(","))
            if not all(re.fullmatch(_VALUE, v, re.ASCII) for v in values):
                raise SelectorError(f'"{match[3]}" are not label values, in the label selector "{text}"')
            operator = "In" if match[2] == "in" else "NotIn"
            found.append(LabelSelectorRequirement(key=match[1], operator=operator, values=values))  # type: ignore[arg-type]
        elif match := _EQUAL.match(text, at):
            operator = "NotIn" if match[2] == "!=" else "In"
            found.append(LabelSelectorRequirement(key=match[1], operator=operator, values=(match[3],)))  # type: ignore[arg-type]
        elif match := _EXISTS.match(text, at):
            found.append(LabelSelectorRequirement(key=match[2], operator="DoesNotExist" if match[1] else "Exists"))
        else:
            raise SelectorError(f'unable to parse the label selector "{text}" at "{text[at : at + 40]}"')
        at = match.end()
    return tuple(found)


@dataclass(frozen=True, slots=True)
class FieldTerm:
    field: str
    equal: bool
    value: str


_ESCAPE = re.compile(r"\\([\\,=])")


def field_terms(text: str) -> tuple[FieldTerm, ...]:
    """apimachinery's fields.ParseSelector: =, ==, != between a path and a value; comma means and."""
    terms: list[FieldTerm] = []
    for part in filter(None, re.split(r"(?<!\\),", text)):
        match = re.fullmatch(r"\s*([A-Za-z][A-Za-z0-9_.]*)\s*(==|=|!=)(.*)", part, re.DOTALL)
        if match is None:
            raise SelectorError(f'unable to parse the field selector "{text}" at "{part[:40]}"')
        terms.append(FieldTerm(match[1], match[2] != "!=", _ESCAPE.sub(r"\1", match[3])))
    return tuple(terms)


def _pod(field: str, pod: Pod) -> str | None:
    match field:
        case "spec.nodeName":
            return pod.spec.node_name
        case "spec.restartPolicy":
            return pod.spec.restart_policy
        case "spec.schedulerName":
            return pod.spec.scheduler_name
        case "spec.serviceAccountName":
            return pod.spec.service_account_name
        case "status.phase":
            return pod.status.phase
        case "status.podIP":
            return pod.status.pod_ip
        case "status.podIPs":
            return pod.status.pod_ip
        case "status.nominatedNodeName":
            return ""
        case "spec.hostNetwork":
            return str(pod.spec.host_network).lower()
        case _:
            return None


def _event(field: str, event: Event) -> str | None:
    about = event.involved_object
    match field:
        case "involvedObject.kind":
            return about.kind
        case "involvedObject.namespace":
            return about.namespace
        case "involvedObject.name":
            return about.name
        case "involvedObject.uid":
            return about.uid
        case "involvedObject.apiVersion":
            return about.api_version
        case "involvedObject.resourceVersion":
            return about.resource_version
        case "involvedObject.fieldPath":
            return about.field_path
        case "reason":
            return event.reason
        case "reportingComponent":
            return event.reporting_component
        case "source":
            return event.source.component or event.reporting_component
        case "type":
            return event.type
        case _:
            return None


def field_of(obj: KubeObject, field: str) -> str | None:
    """The value that a field selector compares; None where this kind can't be selected by that field."""
    if field == "metadata.name":
        return obj.metadata.name
    if field == "metadata.namespace":
        return obj.metadata.namespace
    match obj:
        case Pod():
            return _pod(field, obj)
        case Event():
            return _event(field, obj)
        case Node() if field == "spec.unschedulable":
            return str(obj.spec.unschedulable).lower()
        case Namespace() if field == "status.phase":
            return obj.status.phase
        case Secret() if field == "type":
            return obj.type
        case CustomObject():
            found = find(f".{field}", obj.content)
            return "" if not found else found[0] if isinstance(found[0], str) else json.dumps(found[0])
        case ReplicaSet() | ReplicationController() if field == "status.replicas":
            return str(obj.status.replicas)
        case Job() if field == "status.successful":
            return str(obj.status.succeeded)
        case Service() if field == "spec.clusterIP":
            return obj.spec.cluster_ip
        case Service() if field == "spec.type":
            return obj.spec.type
        case _:
            return None


_KNOWN = {
    "Pod": (
        *("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"),
        *("spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"),
    ),
    "Event": (
        *("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid"),
        *("involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath"),
        *("reason", "reportingComponent", "source", "type"),
    ),
    "Node": ("spec.unschedulable",),
    "Namespace": ("status.phase",),
    "Secret": ("type",),
    "ReplicaSet": ("status.replicas",),
    "ReplicationController": ("status.replicas",),
    "Job": ("status.successful",),
    "Service": ("spec.clusterIP", "spec.type"),
}


def selection(kind: str, label_selector: str, field_selector: str, paths: Sequence[str] = ()) -> Predicate | None:
    """Both selectors as one predicate; None where there is nothing to select by. SelectorError says what is wrong."""
    labels, fields = label_requirements(label_selector), field_terms(field_selector)
    known = ("metadata.name", "metadata.namespace", *_KNOWN.get(kind, ()), *(p.removeprefix(".") for p in paths))
    for term in fields:
        if term.field not in known:
            raise SelectorError(f"field label not supported: {term.field}; a {kind} has {', '.join(known)}")
    if not labels and not fields:
        return None

    def selects(obj: KubeObject) -> bool:
        return all(r.matches(obj.metadata.labels) for r in labels) and all(
            (field_of(obj, t.field) == t.value) is t.equal for t in fields
        )

    return selects
