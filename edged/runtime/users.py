"""Who a container's process is: an image's `user` ("1000", "1000:1000", "app", "app:web") in numbers.

Names are looked up in the image's own /etc/passwd and /etc/group, as OCI's image-spec wants it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from edged.errors import PermanentError
from edged.model import Image, Security
from edged.runtime.bundle import User
from edged.runtime.mounts import open_beneath

FILE_LIMIT = 1 << 20  # bytes of a passwd or group file that are looked at


def user_of(image: Image, security: Security, more_groups: Sequence[int] = ()) -> User:
    """What the pod says stands over what the image says, as the CRI has it: a user of the pod's brings the groups that
    the image's files give to that user, and `groups` come on top.

    :raises PermanentError: the image has no such user or group.
    """
    user = resolve_user(image, image.user if security.user is None else str(security.user))
    gid = user.gid if security.group is None else security.group
    extra = (*user.groups, *security.groups, *more_groups)
    return User(user.uid, gid, tuple(dict.fromkeys(g for g in extra if g != gid)))


def resolve_user(image: Image, user: str) -> User:
    """:raises PermanentError: the image has no such user or group."""
    name, _, group = user.partition(":")
    if not name and not group:
        return User()
    passwd = list(_entries(_read(image, "etc/passwd"), 4))
    if name.isdecimal():
        uid = int(name)
        gid = next((int(e[3]) for e in passwd if e[2] == name and e[3].isdecimal()), 0)
    else:
        entry = next((e for e in passwd if e[0] == name and e[2].isdecimal() and e[3].isdecimal()), None)
        if entry is None:
            raise PermanentError(f"image {image.reference} runs as user '{name}', which its /etc/passwd does not have")
        uid, gid = int(entry[2]), int(entry[3])
    if group.isdecimal():
        return User(uid, int(group))
    groups = list(_entries(_read(image, "etc/group"), 3))
    if group:
        found = next((int(e[2]) for e in groups if e[0] == group and e[2].isdecimal()), None)
        if found is None:
            raise PermanentError(f"image {image.reference} runs as group '{group}', which its /etc/group does not have")
        return User(uid, found)
    names = {e[0] for e in passwd if e[2] == str(uid)}
    more = {int(e[2]) for e in groups if len(e) > 3 and e[2].isdecimal() and names & set(e[3].split(","))}
    return User(uid, gid, tuple(sorted(more - {gid})))


def _entries(text: str, least: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= least:
            yield fields


def _read(image: Image, path: str) -> str:
    """From the uppermost layer that has it. A link out of the layer, or a whiteout, is no file."""
    for layer in reversed(image.layers):
        try:
            fd = open_beneath(layer, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        with open(fd, errors="replace") as f:  # noqa: PTH123 (a descriptor)
            try:
                return f.read(FILE_LIMIT)
            except OSError:
                return ""
    return ""
