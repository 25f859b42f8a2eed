"""What somebody far away may ask of a node: one request, then a conversation in frames until either side ends it.

Whoever carries the conversation (cloudlink, over MQTT) sees to who may ask; the node carries out what is asked.
Channels are those of Kubernetes' remote command protocol (k8s.io/apimachinery/pkg/util/remotecommand).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edged.model.base import Value

STDIN, STDOUT, STDERR = 0, 1, 2
RESIZE = 4  # body: Size as msgpack; only towards a terminal

MAX_FRAME = 16 << 10  # bytes of one frame's body: small beside a board's memory, large beside a frame's head

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class Request(Value, frozen=True, tag_field="op"):
    """Base of the requests; `op` names which."""


class LogsRequest(Request, frozen=True, tag="logs"):
    """STDOUT carries the log's text (both streams, as `kubectl logs` shows them), whole lines where there are any.

    :ivar pod: its uid.
    :ivar tail: lines from the end; None = all that is kept.
    :ivar since: seconds back from the node's own now; 0 = all. `since_wall`: seconds since 1970 instead.
    :ivar limit: bytes after which it ends; 0 = no limit.
    :ivar timestamps: each line begins with when it was written, RFC 3339 with nanoseconds.
    """

    pod: Name
    container: Name
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: float = 0.0
    since_wall: float = 0.0
    limit: int = 0


class ExecRequest(Request, frozen=True, tag="exec"):
    """A command in a running container. With `tty` everything comes on STDOUT, through a terminal of its own."""

    pod: Name
    container: Name
    command: tuple[str, ...]
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class AttachRequest(Request, frozen=True, tag="attach"):
    """What the container's own process writes from now on, and reads where it was made with `stdin`."""

    pod: Name
    container: Name
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class ConnectRequest(Request, frozen=True, tag="connect"):
    """A TCP connection to a port of the pod, made from inside of its network namespace (so loopback is reached too).
    STDIN goes there, STDOUT comes from there."""

    pod: Name
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class UsageRequest(Request, frozen=True, tag="usage"):
    """One frame on STDOUT: `Usage` as msgpack."""


AnyRequest = LogsRequest | ExecRequest | AttachRequest | ConnectRequest | UsageRequest


class Size(Value, frozen=True):
    """Of a terminal, in characters."""

    width: int
    height: int


class PodUsage(Value, frozen=True):
    """:ivar cpu: of one core, averaged over the last look; 1.0 = one core busy.
    :ivar memory: bytes, the working set; by container name.
    """

    pod: str
    cpu: dict[str, float] = msgspec.field(default_factory=dict)
    memory: dict[str, int] = msgspec.field(default_factory=dict)


class Usage(Value, frozen=True):
    """What a node and its pods use now. `window`: seconds over which `cpu` was averaged."""

    cpu: float
    memory: int
    window: float
    pods: tuple[PodUsage, ...] = ()


class End(Value, frozen=True):
    """How a conversation ended, as its last frame.

    :ivar code: the command's exit code, 128 + n for signal n; 0 for everything that isn't a command.
    :ivar reason: "" = it ran to its end (whatever the code). Otherwise one word for programs: NotFound, Refused,
        Unavailable, Gone (the other side went away), and a sentence for people in `message`.
    """

    code: int = 0
    reason: str = ""
    message: str = ""
