"""What a schema can't say: names, references between parts, ranges. One function per kind; see validate().

The rules and phrases are those of k8s.io/kubernetes/pkg/apis/*/validation, for what we support. Where we are stricter,
because Kubernetes would accept what can't work here, the comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cloudlink.kube import (
    apps,
    batch,
    core,
    names,
    validate_apps,
    validate_batch,
    validate_core,
    validate_definition,
    validate_endpoints,
    validate_networking,
    validate_policy,
    validate_quotas,
    validate_rbac,
)
from cloudlink.kube.errors import Cause
from cloudlink.kube.findings import Check, Findings
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.registry import by_kind
from cloudlink.kube.validate_meta import metadata

_NAME_SYNTAX: Mapping[type[KubeObject], Check] = {
    core.Namespace: names.dns_label,
    core.Service: names.dns_label_1035,
    apps.StatefulSet: names.dns_label,  # its pods' host names begin with it
    batch.CronJob: names.cron_job,
    **validate_rbac.NAMES,
}

_CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    **validate_core.CHECKS,
    **validate_definition.CHECKS,
    **validate_apps.CHECKS,
    **validate_batch.CHECKS,
    **validate_endpoints.CHECKS,
    **validate_networking.CHECKS,
    **validate_policy.CHECKS,
    **validate_quotas.CHECKS,
    **validate_rbac.CHECKS,
}


def validate(obj: KubeObject) -> list[Cause]:
    """All that is wrong with a structurally sound object; empty if it can be accepted."""
    found = Findings()
    resource = by_kind(obj.api_version, obj.kind)
    metadata(obj, resource is None or resource.namespaced, _NAME_SYNTAX.get(type(obj), names.dns_subdomain), found)
    check = _CHECKS.get(type(obj))
    if check is not None:
        check(obj, found)
    return found.causes
