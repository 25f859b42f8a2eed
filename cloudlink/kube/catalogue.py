"""All kinds that are there at one moment: those built in, and those that CustomResourceDefinitions have added.

A value: when definitions come and go the store makes another one, and whoever holds the old one sees what was true
then. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from cloudlink.kube.acceptance import resources_of
from cloudlink.kube.definitions import CustomResourceDefinition
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.registry import RESOURCES, Resource

DEFINITIONS = CustomResourceDefinition.__name__  # the key under which the store has them
_GROUPS = frozenset(r.group for r in RESOURCES)


class Catalogue:
    """:ivar resources: one for each kind and version, those built in first.
    :ivar serial: grows by one with each change; tells a cache that it is of yesterday.
    """

    def __init__(self, custom: Iterable[Resource] = (), serial: int = 0) -> None:
        self.custom = tuple(custom)
        self.resources = (*RESOURCES, *self.custom)
        self.serial = serial
        self._by_plural = {(r.group, r.version, r.plural): r for r in self.resources}
        self._by_kind = {(r.api_version, r.kind): r for r in self.resources}
        self._by_group: dict[tuple[str, str], Resource] = {}  # whichever version comes first
        for resource in self.resources:
            self._by_group.setdefault((resource.group, resource.kind), resource)
        self._by_key: dict[str, Resource] = {}
        for resource in self.resources:
            if resource.shape is not None and resource.shape.stored == resource.api_version:
                self._by_key[resource.key] = resource
            else:
                self._by_key.setdefault(resource.key, resource)

    def by_plural(self, group: str, version: str, plural: str) -> Resource | None:
        """As URLs name it: ("apps", "v1", "deployments"); None if there is no such kind."""
        return self._by_plural.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """As documents name it: ("apps/v1", "Deployment"); None if there is no such kind."""
        return self._by_kind.get((api_version, kind))

    def by_reference(self, api_version: str, kind: str) -> Resource | None:
        """Likewise; also of a version that is no longer served, where another one of that group is."""
        group = api_version.rpartition("/")[0]
        return self._by_kind.get((api_version, kind)) or self._by_group.get((group, kind))

    def by_key(self, key: str) -> Resource | None:
        """As the store files it. Of a kind with several versions, the one that is stored."""
        return self._by_key.get(key)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Every kind once, as the store files it."""
        return tuple(self._by_key)

    @cached_property
    def namespaced_keys(self) -> tuple[str, ...]:
        """Likewise, of what lives in namespaces."""
        return tuple(key for key, resource in self._by_key.items() if resource.namespaced)


BUILT_IN = Catalogue()


def is_foreign(api_version: object, kind: object) -> bool:
    """Whether that can only be of a CustomResourceDefinition's making: no group of ours has it."""
    return (
        isinstance(kind, str)
        and isinstance(api_version, str)
        and api_version.partition("/")[0] not in _GROUPS
        and "/" in api_version
    )


def after(catalogue: Catalogue, written: Iterable[KubeObject], definitions: Sequence[KubeObject]) -> Catalogue:
    """The catalogue once these objects were written or removed: another one if a definition is among them.

    :param definitions: all that are there now.
    """
    if not any(isinstance(obj, CustomResourceDefinition) for obj in written):
        return catalogue
    return catalogue_of(definitions, catalogue.serial + 1)


def catalogue_of(definitions: Iterable[KubeObject], serial: int) -> Catalogue:
    """What is built in, and what these definitions add."""
    return Catalogue(
        (r for d in definitions if isinstance(d, CustomResourceDefinition) for r in resources_of(d)), serial
    )
