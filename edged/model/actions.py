"""What can be asked of a container, or done to it, from outside: probes and lifecycle hooks."""

from __future__ import annotations

from edged.model.base import Value


class ExecAction(Value, frozen=True, tag="exec"):
    """Healthy when the command ends with 0 inside the container."""

    command: tuple[str, ...]


class HttpAction(Value, frozen=True, tag="http"):
    """Healthy when GET answers with 200 to 399. `host` "" means the pod's own address."""

    port: int
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()


class TcpAction(Value, frozen=True, tag="tcp"):
    """Healthy when the port accepts a connection. `host` "" means the pod's own address."""

    port: int
    host: str = ""


class GrpcAction(Value, frozen=True, tag="grpc"):
    """Healthy when grpc.health.v1.Health/Check answers SERVING for `service` ("" = the server itself)."""

    port: int
    service: str = ""


class SleepAction(Value, frozen=True, tag="sleep"):
    """A hook that only waits."""

    seconds: float


ProbeAction = ExecAction | HttpAction | TcpAction | GrpcAction
Hook = ExecAction | HttpAction | TcpAction | SleepAction


class Probe(Value, frozen=True):
    """How to ask a container how it is; all times in seconds.

    :ivar termination_grace: what a container gets that this probe has condemned; None = the pod's own.
    """

    action: ProbeAction
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace: float | None = None
