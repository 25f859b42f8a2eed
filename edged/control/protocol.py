"""What travels on the control socket: one request line in, one or more reply lines out, then the end.

A connection carries one request. Every reply line is an object with exactly one key: `snapshot`, `log`, `plan`,
`ok` or `error`. A stream that ends without `error` ended because everything was said (or the daemon went away:
the client can't tell those apart for `watch`, which never ends by itself).

    {"op":"ping"}                                    -> {"ok":true}
    {"op":"status"}                                  -> {"snapshot":{...}}
    {"op":"watch","interval":2}                      -> {"snapshot":{...}} ...
    {"op":"logs","container":"<id>","tail":100}      -> {"log":{...}} ... {"ok":true}
    {"op":"logs","container":"<id>","follow":true}   -> {"log":{...}} ... {"ok":true} when the container has ended
    {"op":"logs",...,"previous":true,"since":1.7e9}  -> of the attempt before that one; what was written since then
    {"op":"plan"}                                    -> {"plan":"text"}
    {"op":"refresh"}                                 -> {"ok":true}
    anything else                                    -> {"error":{"message":"a sentence"}}
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edged.control.logs import LogLine
from edged.model import ContainerUsage, HubLink, NodeStatus, Value

MAX_REQUEST = 4096  # bytes of one request line; the longest legal one is far below
MOST_LINES = 1_000_000  # of one log: more than any fits into its bytes
MAX_REPLY = 16 << 20  # bytes of one reply line that a client takes; 110 pods make about 150 kB

# ---------------------------------------------------------------- what is told


class Budget(Value, frozen=True):
    """Memory for pods, in bytes: what they may have, what admitted ones asked for, what they use (working sets)."""

    allocatable: int = 0
    requested: int = 0
    used: int = 0


class Machine(Value, frozen=True):
    """The board right now. Bytes, degrees Celsius, seconds; None or 0 where it doesn't say.

    :ivar load: runnable tasks averaged over 1, 5 and 15 minutes (proc(5), /proc/loadavg).
    :ivar storage_free: what an unprivileged writer could still use on the state folder's file system.
    """

    memory_total: int = 0
    memory_available: int = 0
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)
    temperature: float | None = None
    model: str = ""
    storage_total: int = 0
    storage_free: int = 0
    uptime: float = 0.0


class DaemonFacts(Value, frozen=True):
    """The daemon itself: PSS in bytes (0 where the kernel doesn't tell), seconds since it started."""

    pss: int = 0
    uptime: float = 0.0


class Snapshot(Value, frozen=True):
    """Everything a local viewer may know, taken at one moment.

    :ivar wall: the node's clock when this was taken; ages are counted from it, since a board's clock may be wrong.
    :ivar usage: by container id; running containers only.
    :ivar generation: of the newest desired document accepted (`status.generation` lags while it is carried out).
    """

    status: NodeStatus
    wall: float
    usage: dict[str, ContainerUsage] = msgspec.field(default_factory=dict)
    budget: Budget = Budget()
    machine: Machine = Machine()
    daemon: DaemonFacts = DaemonFacts()
    hub: HubLink = HubLink()
    generation: int = 0


class Failure(Value, frozen=True):
    message: str


class Reply(Value, frozen=True):
    """One reply line; exactly one field is set."""

    snapshot: Snapshot | None = None
    log: LogLine | None = None
    plan: str | None = None
    ok: bool = False
    error: Failure | None = None


# ---------------------------------------------------------------- what is asked


class Request(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """Base of the requests; `op` names which."""


class Ping(Request, frozen=True, tag="ping"):
    pass


class Status(Request, frozen=True, tag="status"):
    pass


class Watch(Request, frozen=True, tag="watch"):
    """:ivar interval: seconds after which usage is told again though no status changed."""

    interval: Annotated[float, msgspec.Meta(ge=1.0, le=3600.0)] = 2.0


class Logs(Request, frozen=True, tag="logs"):
    """The pattern keeps a container id from being a path: no slash, no leading dot.

    :ivar tail: lines from the end; a bounded log never has as many as the most that can be asked for.
    :ivar previous: of the attempt before `container`.
    :ivar since: seconds since 1970 by the node's clock; what was written before is left out, after `tail`.
    """

    container: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=512)]
    tail: Annotated[int, msgspec.Meta(ge=0, le=MOST_LINES)] = 100
    follow: bool = False
    previous: bool = False
    since: float = 0.0


class Plan(Request, frozen=True, tag="plan"):
    pass


class Refresh(Request, frozen=True, tag="refresh"):
    pass


AnyRequest = Ping | Status | Watch | Logs | Plan | Refresh

encode = msgspec.json.Encoder().encode
_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
decode_request = _requests.decode
