"""Policy rules: whether one allows a request, and whether some of them cover others. Pure.

The questions are those of k8s.io/kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go and of component-helpers'
validation.Covers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from cloudlink.hub.auth.requests import Request
from cloudlink.kube.rbac import PolicyRule

ALL = "*"
MOST_PIECES = 10_000  # one-verb, one-resource rules that a role may come apart into when it is compared


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule made ready for being asked often."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str]
    urls: tuple[str, ...]

    @classmethod
    def of(cls, rule: PolicyRule) -> Self:
        groups, resources = frozenset(rule.api_groups), frozenset(rule.resources)
        return cls(frozenset(rule.verbs), groups, resources, frozenset(rule.resource_names), rule.non_resource_urls)

    def allows(self, request: Request) -> bool:
        if request.verb not in self.verbs and ALL not in self.verbs:
            return False
        if not request.of_resource:
            return any(_url_matches(url, request.path) for url in self.urls)
        if request.group not in self.groups and ALL not in self.groups:
            return False
        if self.names and request.name not in self.names:
            return False
        if ALL in self.resources or request.combined in self.resources:
            return True
        return bool(request.subresource) and f"*/{request.subresource}" in self.resources


def _url_matches(pattern: str, path: str) -> bool:
    if pattern in (ALL, path):
        return True
    return pattern.endswith(ALL) and path.startswith(pattern.rstrip(ALL))


# ---------------------------------------------------------------- covering


def missing(owned: Sequence[PolicyRule], wanted: Iterable[PolicyRule]) -> list[PolicyRule]:
    """The parts of `wanted` (one verb, one group, one resource, one name each) that no rule in `owned` covers."""
    return [piece for rule in wanted for piece in _pieces(rule) if not any(_covers(o, piece) for o in owned)]


def _pieces(rule: PolicyRule) -> Iterator[PolicyRule]:
    parts = itertools.product(rule.verbs, rule.api_groups, rule.resources, rule.resource_names or ("",))
    urls = itertools.product(rule.verbs, rule.non_resource_urls)
    made = itertools.chain(
        (
            PolicyRule(verbs=(v,), api_groups=(g,), resources=(r,), resource_names=(n,) if n else ())
            for v, g, r, n in parts
        ),
        (PolicyRule(verbs=(v,), non_resource_urls=(u,)) for v, u in urls),
    )
    return itertools.islice(made, MOST_PIECES)


def _covers(owned: PolicyRule, piece: PolicyRule) -> bool:
    if ALL not in owned.verbs and not set(piece.verbs) <= set(owned.verbs):
        return False
    if piece.non_resource_urls:
        return all(any(_url_covers(o, u) for o in owned.non_resource_urls) for u in piece.non_resource_urls)
    if ALL not in owned.api_groups and not set(piece.api_groups) <= set(owned.api_groups):
        return False
    if not all(_resource_covered(owned, r) for r in piece.resources):
        return False
    return not owned.resource_names or (
        bool(piece.resource_names) and set(piece.resource_names) <= set(owned.resource_names)
    )


def _resource_covered(owned: PolicyRule, resource: str) -> bool:
    if ALL in owned.resources or resource in owned.resources:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in owned.resources


def _url_covers(owned: str, url: str) -> bool:
    if owned in (ALL, url):
        return True
    return owned.endswith(ALL) and url.startswith(owned.rstrip(ALL))


def too_many(rules: Iterable[PolicyRule]) -> bool:
    """Whether the rules come apart into more pieces than are compared."""
    sizes = (
        len(r.verbs) * (len(r.api_groups) * len(r.resources) * max(len(r.resource_names), 1) + len(r.non_resource_urls))
        for r in rules
    )
    return sum(sizes) > MOST_PIECES


def described(pieces: Iterable[PolicyRule]) -> list[str]:
    """For people: one line for each group, resource and name, all its verbs together (CompactRules, CompactString)."""
    verbs: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for p in pieces:
        verbs.setdefault((p.api_groups, p.resources, p.resource_names, p.non_resource_urls), []).extend(p.verbs)
    lines = []
    for (groups, resources, resource_names, urls), of_these in verbs.items():
        parts = (
            ("APIGroups", groups),
            ("Resources", resources),
            ("NonResourceURLs", urls),
            ("ResourceNames", resource_names),
            ("Verbs", tuple(dict.fromkeys(of_these))),
        )
        lines.append("{" + ", ".join(f"{name}:{_go(values)}" for name, values in parts if values) + "}")
    return sorted(lines)


def _go(values: Sequence[str]) -> str:
    return "[" + " ".join(f'"{v}"' for v in values) + "]"
