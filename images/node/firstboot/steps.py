"""What can be done to a board. Frozen; each says what it is without telling a secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Put:
    """A file, whole or not at all, on the disk before the next step."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644

    def describe(self) -> str:
        return f"write {self.path} ({len(self.content)} bytes, {self.mode:04o})"


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, replaced by rename."""

    path: str
    target: str

    def describe(self) -> str:
        return f"link {self.path} to {self.target}"


@dataclass(frozen=True, slots=True)
class Remove:
    path: str

    def describe(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class MakeHostKey:
    path: str

    def describe(self) -> str:
        return f"make ssh's host key {self.path}"


@dataclass(frozen=True, slots=True)
class Grow:
    """Partition `number` of `disk` to its end, and the mounted file system in it to its own."""

    disk: str
    number: int
    mount: str

    def describe(self) -> str:
        return f"grow partition {self.number} of {self.disk} and {self.mount} in it"


@dataclass(frozen=True, slots=True)
class SetHostname:
    """The running system's; the next boot takes it from its file."""

    name: str

    def describe(self) -> str:
        return f"host name {self.name}"


@dataclass(frozen=True, slots=True)
class Wipe:
    """A file on the boot partition: overwritten to the end of its last cluster, synced, removed."""

    name: str

    def describe(self) -> str:
        return f"wipe {self.name} on the boot partition"


@dataclass(frozen=True, slots=True)
class Scrub:
    """Older copies that an editor left in clusters which are free now. :ivar secrets: none: not known any more, so all
    free clusters are overwritten."""

    secrets: tuple[str, ...] = field(default=(), repr=False)

    def describe(self) -> str:
        return "look for older copies on the boot partition"


@dataclass(frozen=True, slots=True)
class Tell:
    """A text for a person: on the boot partition (absent = away with it), on the console and in the journal."""

    kind: Literal["error", "joined"]
    text: str = ""

    @property
    def file(self) -> str:
        return f"edged-{self.kind}.txt"

    def describe(self) -> str:
        return f"write {self.file}" if self.text else f"remove {self.file}"


Step = Put | Link | Remove | MakeHostKey | Grow | SetHostname | Wipe | Scrub | Tell
