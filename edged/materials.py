"""What a pod's files and variables are made from, opened only for the moment in which they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edged.keeping import Keeper
from edged.model import Capacity, Material, NodeFacts, Pod, references


class Materials:
    """:param unseal: Uplink.unseal. :param address: Machine.address."""

    def __init__(
        self,
        keeper: Keeper,
        capacity: Capacity,
        node: str,
        unseal: Callable[[str, bytes], Mapping[str, bytes]],
        address: Callable[[], str],
    ) -> None:
        self._keeper = keeper
        self._capacity = capacity
        self._node = node
        self._unseal = unseal
        self._address = address

    def of(self, pod: Pod) -> Material:
        """The configs and secrets that the pod refers to, secrets opened; those that are missing are left out."""
        desired = self._keeper.desired
        if desired is None:
            return Material()
        configs, secrets = references(pod)
        opened: dict[str, Mapping[str, bytes]] = {}
        for name in secrets:
            sealed = desired.secrets.get(f"{pod.namespace}/{name}")
            if sealed is not None:
                opened[name] = self._unseal(f"{pod.namespace}/{name}", sealed)
        found = {name: desired.configs.get(f"{pod.namespace}/{name}") for name in configs}
        present = {name: content for name, content in found.items() if content is not None}
        return Material(present, opened, self._facts(), self._keeper.digests.get(pod.uid, ""))

    def _facts(self) -> NodeFacts:
        board = self._capacity
        return NodeFacts(self._node, self._address(), board.memory_allocatable, board.cpu, board.storage_allocatable)

    def logins(self, pod: Pod) -> list[Mapping[str, bytes]]:
        """The contents of the pod's registry secrets, as far as they are here."""
        sealed = self._keeper.desired.secrets if self._keeper.desired is not None else {}
        names = (f"{pod.namespace}/{name}" for name in pod.pull_secrets)
        return [self._unseal(name, sealed[name]) for name in names if name in sealed]
