"""How registries are reached, and what one run of the puller is told. Loaded by the daemon too: only values in here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edged.errors import PermanentError
from edged.model import Value


class RegistryConfig(Value, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How to reach one registry.

    :ivar mirrors: asked first, in this order: "host:port" or a URL, which may have a path.
    :ivar insecure: its certificate isn't checked, and plain HTTP will do; as Docker, always so on loopback.
    :ivar ca: file with the CA certificates to trust besides the system's.
    """

    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    ca: str = ""


class PullConfig(Value, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The content of --config.

    :ivar registries: by the name that references use ("docker.io") or that a mirror has ("mirror.lan:5000").
    :ivar ca: CA file for every registry that names none of its own.
    :ivar stall_seconds: a connection that sends nothing for so long is given up.
    :ivar attempts: how often in a row nothing at all may arrive before the pull ends with "later".
    :ivar backoff_seconds: first pause between two attempts; doubles up to 30 s, with jitter.
    :ivar parallel: layers fetched at the same time.
    :ivar partial_bytes: what half-fetched layers of other images may keep on the disk.
    """

    registries: dict[str, RegistryConfig] = msgspec.field(default_factory=dict)
    ca: str = ""
    stall_seconds: float = 30.0
    attempts: int = 5
    backoff_seconds: float = 0.5
    parallel: int = 3
    partial_bytes: int = 1 << 30

    @classmethod
    def read(cls, path: Path) -> PullConfig:
        try:
            config = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as e:
            raise PermanentError(f"cannot read {path}: {e.strerror}") from e
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise PermanentError(f"{path} is not a valid registry configuration: {e}") from e
        for name, at_least in (("stallSeconds", config.stall_seconds), ("attempts", config.attempts)):
            if at_least <= 0:
                raise PermanentError(f"{path}: {name} is {at_least}; it must be above 0")
        if not 1 <= config.parallel <= 8:
            raise PermanentError(f"{path}: parallel is {config.parallel}; it must be 1 to 8")
        return config


class Job(Value, frozen=True, omit_defaults=True):
    """What the daemon hands to the process that works for it, through a file that exists only in memory: it has logins.

    :ivar docker_config: path of the node's own logins (docker's config.json); it need not exist. "" = none.
    :ivar secrets: contents of registry secrets: key (".dockerconfigjson" or ".dockercfg") -> value.
    :ivar wanted: references that must stay, and whose half-fetched layers do.
    """

    config: PullConfig = PullConfig()
    docker_config: str = ""
    secrets: tuple[dict[str, bytes], ...] = ()
    wanted: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Job(...)"  # what gets printed by accident says nothing
