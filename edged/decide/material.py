"""Has the content of a pod's files changed? One digest per pod over all that its config, secret, downward and projected
volumes show, compared with the one that its sandbox was last filled with.

Secrets go in as they came, sealed: nobody can test guesses against the digest, and nothing has to be opened for it.
Variables don't go in: they can only change with a new container, and changing a config restarts nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from edged.model import (
    ConfigFiles,
    Desired,
    DownwardFiles,
    Pod,
    Projected,
    SecretFiles,
)

FileSource = ConfigFiles | SecretFiles | DownwardFiles


def file_sources(pod: Pod) -> Iterator[FileSource]:
    for volume in pod.volumes:
        source = volume.source
        if isinstance(source, Projected):
            yield from source.sources
        elif isinstance(source, ConfigFiles | SecretFiles | DownwardFiles):
            yield source


def digest(pod: Pod, configs: Mapping[str, Mapping[str, bytes]], secrets: Mapping[str, bytes]) -> str:
    """:param configs: "namespace/name" -> content. :param secrets: "namespace/name" -> sealed bytes.
    :returns: "" for a pod without such files."""
    sources = list(file_sources(pod))
    if not sources:
        return ""
    content: list[object] = []
    for source in sources:
        content.append(source)
        if isinstance(source, ConfigFiles):
            found = configs.get(f"{pod.namespace}/{source.config}")
            content.append(None if found is None else sorted(found.items()))
        elif isinstance(source, SecretFiles):
            content.append(secrets.get(f"{pod.namespace}/{source.secret}"))
        else:
            content.append((sorted(pod.labels.items()), sorted(pod.annotations.items())))
            content.append([(c.name, c.limits) for c in pod.all_containers])
    return hashlib.blake2b(msgspec.msgpack.encode(content), digest_size=12).hexdigest()


def digests(desired: Desired) -> dict[str, str]:
    """Pod uid -> digest, of all pods of a document. It holds as long as the document does."""
    return {pod.uid: digest(pod, desired.configs, desired.secrets) for pod in desired.pods}
