"""Notes -> core/v1 Events, one for each thing said of one object, counted when it is said again.

Kubernetes' recorder counts repeats by looking for a similar Event; here the name of the Event is a hash of what
makes two of them similar, so that looking is one read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from cloudlink.hub.changes import Create, ObjectChange, Update
from cloudlink.hub.decision import Note
from cloudlink.hub.objects import rfc3339
from cloudlink.kube.core import Event, EventSource, ObjectReference
from cloudlink.kube.meta import ObjectMeta

HOME = "default"  # where Events about things outside of namespaces live
MESSAGE_MAX = 1024  # as Kubernetes cuts them
# Normal ones of one commit. The store keeps a thousand in all: a flood of them, as when a thousand pods start, would
# push out the Warnings that people need, and be gone itself a second later (Kubernetes' recorder thins, too).
NORMAL_AT_ONCE = 100

Find = Callable[[str, str], Event | None]  # namespace, name


def record(notes: Iterable[Note], find: Find, now: float) -> tuple[ObjectChange, ...]:
    """The changes that make these notes visible. Equal notes of one call are counted together.

    Of more than NORMAL_AT_ONCE Normal ones the newest are told; Warnings always are.
    """
    fresh: dict[tuple[str, str], Event] = {}
    known: set[tuple[str, str]] = set()
    for note in _thinned(list(notes)):
        event = _event(note, now)
        key = (event.metadata.namespace, event.metadata.name)
        before = fresh.get(key) or find(*key)
        if before is not None:
            if key not in fresh:
                known.add(key)
            event = event.model_copy(update={"count": before.count + 1, "first_timestamp": before.first_timestamp})
        fresh[key] = event
    return tuple(Update(e) if key in known else Create(e) for key, e in fresh.items())


def _thinned(notes: Sequence[Note]) -> Iterable[Note]:
    surplus = sum(n.type == "Normal" for n in notes) - NORMAL_AT_ONCE
    for note in notes:
        if note.type == "Normal" and surplus > 0:
            surplus -= 1
        else:
            yield note


def _event(note: Note, now: float) -> Event:
    about, message = note.about, note.message[:MESSAGE_MAX]
    meta = about.metadata
    # kubectl describe node looks for Events whose involvedObject.uid is the node's name or uid.
    reference = ObjectReference(
        kind=about.kind,
        api_version=about.api_version,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        field_path=note.field_path,
    )
    # Nodes are told apart by name: what is said of one at its first word comes before the store gave it a uid.
    who = meta.uid if meta.namespace else meta.name
    similar = "\0".join((about.kind, who, note.field_path, note.type, note.reason, message, note.component, note.host))
    digest = hashlib.blake2b(similar.encode("utf-8", "replace"), digest_size=8).hexdigest()
    time = rfc3339(now)
    return Event(
        metadata=ObjectMeta(name=f"{meta.name[:236]}.{digest}", namespace=meta.namespace or HOME),
        involved_object=reference,
        type=note.type,
        reason=note.reason,
        message=message,
        count=1,
        source=EventSource(component=note.component, host=note.host),
        first_timestamp=time,
        last_timestamp=time,
        reporting_component=note.component,
        reporting_instance=note.host,
    )
