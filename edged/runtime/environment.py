"""What a container is started with: its environment and its arguments, by Kubernetes' rules (pure).

Order of the environment, later ones win: PATH and HOSTNAME, the image's, envFrom, env. `$(NAME)` in the pod's own
command, args and env values is replaced where NAME is known, left as it is where not; `$$` is a dollar sign
(k8s.io/kubernetes/third_party/forked/golang/expansion).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edged.errors import PermanentError, RetryError
from edged.model import Container, Env, EnvFrom, Image, Material, Pod
from edged.runtime.downward import field_value, resource_value

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
WAIT_FOR_MATERIAL = 5.0  # seconds until a missing config or secret is looked for again


def expand(text: str, known: Mapping[str, str]) -> str:
    """Kubernetes' $(VAR) expansion."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return known.get(name, match.group(0))

    return REFERENCE.sub(replace, text)


def resolve_env(pod: Pod, container: Container, material: Material, ip: str = "") -> dict[str, str]:
    """The pod's own variables: name -> value. These, and not the image's, are what `$(NAME)` may refer to.

    :param ip: the pod's address.
    :raises RetryError: a config, secret or key that is not optional is missing, or an address isn't known yet.
    :raises PermanentError: a value that can't be in an environment, a field that doesn't exist.
    """
    env: dict[str, str] = {}
    for source in container.env_from:
        env.update(_all_of(pod, container, source, material))
    for variable in container.env:
        if variable.field:
            value: str | None = field_value(pod, variable.field, ip, material.node)
        elif variable.resource is not None:
            value = resource_value(pod, container, variable.resource, material.node)
        else:
            value = _value_of(pod, container, variable, material, env)
        if value is not None:
            env[variable.name] = _printable(value, f"env '{variable.name}'", pod)
    return env


def full_env(image: Image, hostname: str, own: Mapping[str, str]) -> dict[str, str]:
    """All that the process gets, the pod's own last."""
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    for entry in image.env:
        name, equals, value = entry.partition("=")
        if equals:
            env[name] = value
    return env | dict(own)


def arguments(container: Container, image: Image, env: Mapping[str, str]) -> tuple[str, ...]:
    """Kubernetes' table: command replaces the entrypoint (and with it the image's cmd), args replace the cmd.

    :param env: the pod's own variables.
    :raises PermanentError: neither the pod nor the image says what to run.
    """
    command = tuple(expand(word, env) for word in container.command or ())
    args = tuple(expand(word, env) for word in container.args or ())
    if command:
        return command + args
    words = image.entrypoint + (args or image.cmd)
    if not words:
        raise PermanentError(
            f'container "{container.name}" gives no command and image "{image.reference}" has neither entrypoint nor'
            " cmd; set command"
        )
    return words


def look_up(
    kind: str, name: str, pod: Pod, used_by: str, material: Material, optional: bool
) -> Mapping[str, bytes] | None:
    """The content of a config ("config map") or secret; None if it is missing and may be."""
    source = material.secrets if kind == "secret" else material.configs
    content = source.get(name)
    if content is None and not optional:
        raise RetryError(
            f"{kind} {pod.namespace}/{name} does not exist; {used_by} of pod {pod.title} refers to it",
            after=WAIT_FOR_MATERIAL,
        )
    return content


def missing_key(kind: str, name: str, key: str, pod: Pod, used_by: str) -> RetryError:
    return RetryError(
        f"{kind} {pod.namespace}/{name} has no key '{key}'; {used_by} of pod {pod.title} refers to it",
        after=WAIT_FOR_MATERIAL,
    )


def _all_of(pod: Pod, container: Container, source: EnvFrom, material: Material) -> dict[str, str]:
    kind, name = ("secret", source.secret) if source.secret else ("config map", source.config or "")
    used_by = f"envFrom of container '{container.name}'"
    content = look_up(kind, name, pod, used_by, material, source.optional) or {}
    return {
        source.prefix + key: _text(value, f"key '{key}' of {kind} {pod.namespace}/{name}", pod)
        for key, value in content.items()
        if key and "=" not in key
    }


def _value_of(
    pod: Pod, container: Container, variable: Env, material: Material, known: Mapping[str, str]
) -> str | None:
    if variable.secret is None and variable.config is None:
        return expand(_printable(variable.value or "", f"env '{variable.name}'", pod), known)
    kind, name = ("secret", variable.secret) if variable.secret else ("config map", variable.config or "")
    used_by = f"env '{variable.name}' of container '{container.name}'"
    content = look_up(kind, name or "", pod, used_by, material, variable.optional)
    if content is None:
        return None
    if variable.key not in content:
        if variable.optional:
            return None
        raise missing_key(kind, name or "", variable.key, pod, used_by)
    return _text(content[variable.key], f"key '{variable.key}' of {kind} {pod.namespace}/{name}", pod)


def _text(value: bytes, what: str, pod: Pod) -> str:
    try:
        return _printable(value.decode(), what, pod)
    except UnicodeDecodeError as e:
        raise PermanentError(
            f"{what} is not UTF-8 text, so pod {pod.title} can't have it in its environment; mount it as a file"
        ) from e


def _printable(value: str, what: str, pod: Pod) -> str:
    if "\0" in value:
        raise PermanentError(f"{what} holds a zero byte, so pod {pod.title} can't have it in its environment")
    return value
