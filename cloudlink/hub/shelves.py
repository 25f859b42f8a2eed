"""All objects in memory, by kind, namespace and name, always in the order in which lists show them.

The names are kept sorted as they come, so that a page out of twenty thousand objects costs what the page costs.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import islice

from sortedcontainers import SortedDict

from cloudlink.kube.meta import KubeObject

Key = tuple[str, str, str]  # Resource.key (the kind, for those built in), namespace ("" outside of any), name
Found = list[KubeObject]  # a name of its own, because Objects.list shadows the type inside the class


def key_of(obj: KubeObject) -> Key:
    return obj.key, obj.metadata.namespace, obj.metadata.name


class Objects:
    """`get`, `list` and `page` are what the whole hub reads. Order: namespace, then name, as etcd has it."""

    def __init__(self) -> None:
        self._kinds: dict[str, SortedDict[str, SortedDict[str, KubeObject]]] = {}

    def copy(self, without: Container[str] = ()) -> Objects:
        """The same objects, without some kinds; what is put into either is not in the other."""
        copied = Objects()
        copied._kinds = {
            kind: SortedDict({space: names.copy() for space, names in spaces.items()})
            for kind, spaces in self._kinds.items()
            if kind not in without
        }
        return copied

    def get(self, key: Key) -> KubeObject | None:
        kind, namespace, name = key
        there: KubeObject | None = self._kinds.get(kind, {}).get(namespace, {}).get(name)
        return there

    def list(self, kind: str, namespace: str | None = None) -> list[KubeObject]:
        return list(self.walk(kind, namespace))

    def page(self, kind: str, namespace: str | None, after: tuple[str, str] | None, limit: int) -> Found:
        """At most `limit` objects that come after (namespace, name); None = from the first one on."""
        return list(islice(self.walk(kind, namespace, after), limit))

    def walk(
        self, kind: str, namespace: str | None = None, after: tuple[str, str] | None = None
    ) -> Iterator[KubeObject]:
        """Lazily; nothing may be put or removed meanwhile."""
        spaces = self._kinds.get(kind)
        if spaces is None:
            return
        first = after[0] if after is not None else None
        for space in spaces.irange(first) if namespace is None else (namespace,):
            names = spaces.get(space)
            if names is None or (first is not None and space < first):
                continue
            if after is not None and space == first:
                for name in names.irange(after[1], inclusive=(False, False)):
                    yield names[name]
            else:
                yield from names.values()

    def count(self, kind: str, namespace: str | None = None) -> int:
        spaces = self._kinds.get(kind, {})
        return sum(map(len, spaces.values() if namespace is None else [spaces.get(namespace, ())]))

    def count_after(self, kind: str, namespace: str | None, after: tuple[str, str]) -> int:
        """How many `walk` would give from behind (namespace, name) on."""
        spaces = self._kinds.get(kind)
        if spaces is None:
            return 0
        rest = spaces.irange(after[0]) if namespace is None else [namespace]
        return sum(
            len(spaces[space]) - (spaces[space].bisect_right(after[1]) if space == after[0] else 0)
            for space in rest
            if space in spaces and space >= after[0]
        )

    def kinds(self) -> frozenset[str]:
        """Those of which there is an object."""
        return frozenset(kind for kind, spaces in self._kinds.items() if spaces)

    def within(self, namespace: str) -> Iterator[KubeObject]:
        """Everything that lives in a namespace."""
        for by_namespace in self._kinds.values():
            yield from by_namespace.get(namespace, {}).values()

    def put(self, obj: KubeObject) -> None:
        kind, namespace, name = key_of(obj)
        spaces = self._kinds.setdefault(kind, SortedDict())
        spaces.setdefault(namespace, SortedDict())[name] = obj

    def remove(self, key: Key) -> None:
        kind, namespace, name = key
        spaces = self._kinds.get(kind, {})
        space = spaces.get(namespace, {})
        space.pop(name, None)
        if not space:
            spaces.pop(namespace, None)
