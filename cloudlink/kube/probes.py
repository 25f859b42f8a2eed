"""core/v1: what is asked of a running container (probes) and done to it (lifecycle hooks)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from cloudlink.kube.meta import IntOrString, Many, Model, put


class ExecAction(Model):
    """The command runs inside the container, without a shell; 0 is success."""

    command: Many[str] = ()


class HTTPHeader(Model):
    name: str
    value: str


class HTTPGetAction(Model):
    """Success is any answer from 200 to 399.

    :ivar port: a number, or the name of a port of this container.
    :ivar host: the pod's own address by default.
    """

    port: IntOrString
    path: str = "/"
    host: str = ""
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    http_headers: Many[HTTPHeader] = ()


class TCPSocketAction(Model):
    """Success is a connection."""

    port: IntOrString
    host: str = ""


class GRPCAction(Model):
    """grpc.health.v1.Health/Check answers SERVING."""

    port: int
    service: str = ""


class SleepAction(Model):
    seconds: int


class Probe(Model):
    """Exactly one action. Times in seconds. A period, timeout or threshold of 0 stands for its default, as in
    Kubernetes.

    :ivar termination_grace_period_seconds: instead of the pod's own, for what this probe condemns; not for readiness.
    """

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None

    @model_validator(mode="after")
    def _zero_is_default(self) -> Probe:
        if not (self.timeout_seconds and self.period_seconds and self.success_threshold and self.failure_threshold):
            put(
                self,
                timeout_seconds=self.timeout_seconds or 1,
                period_seconds=self.period_seconds or 10,
                success_threshold=self.success_threshold or 1,
                failure_threshold=self.failure_threshold or 3,
            )
        return self


class LifecycleHandler(Model):
    """Exactly one action."""

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    sleep: SleepAction | None = None

    unsupported: ClassVar = frozenset({"tcpSocket"})
    why_not: ClassVar = {"tcpSocket": "Kubernetes itself never runs it as a hook; use exec, httpGet or sleep"}


class Lifecycle(Model):
    """Hooks.

    :ivar post_start: beside the container's own start; the container isn't ready before, and a failure restarts it.
    :ivar pre_stop: before the stop signal, within the grace period.
    """

    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None

    unsupported: ClassVar = frozenset({"stopSignal"})
    why_not: ClassVar = {"stopSignal": "set STOPSIGNAL in the image, it is honoured"}
