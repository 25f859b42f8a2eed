"""Command, arguments and environment by Kubernetes' rules."""

from __future__ import annotations

import pytest

from edged.errors import PermanentError, RetryError
from edged.model import Container, Env, EnvFrom, Image, Material, Pod
from edged.runtime.environment import arguments, expand, full_env, resolve_env

IMAGE = Image("busybox", "sha256:0", ("/l",), entrypoint=("/entry",), cmd=("serve",), env=("PATH=/img", "B=img", "bad"))


def container(**options: object) -> Container:
    return Container("main", "busybox", **options)  # type: ignore[arg-type]


def resolve(one: Container, material: Material | None = None) -> dict[str, str]:
    return resolve_env(Pod("default", "app", "uid", (one,)), one, material or Material())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)$(B)y", "x12y"),
        ("$(C)", "$(C)"),  # unknown ones stay
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),  # that's the shell's
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("", ""),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, ("/entry", "serve")),
        (None, ("a",), ("/entry", "a")),
        (("c",), None, ("c",)),
        (("c",), ("a",), ("c", "a")),
        ((), (), ("/entry", "serve")),
    ],
)
def test_command_and_args_follow_kubernetes_table(
    command: tuple[str, ...] | None, args: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    assert arguments(container(command=command, args=args), IMAGE, {}) == expected


def test_only_the_pods_own_words_are_expanded() -> None:
    image = Image("busybox", "sha256:0", ("/l",), entrypoint=("$(A)",))
    assert arguments(container(args=("$(A)",)), image, {"A": "1"}) == ("$(A)", "1")


def test_nothing_to_run_is_told() -> None:
    with pytest.raises(PermanentError, match='gives no command and image "busybox" has neither entrypoint nor cmd'):
        arguments(container(), Image("busybox", "sha256:0", ("/l",)), {})


def test_later_sources_win() -> None:
    one = container(env=(Env("C", "env"),), env_from=(EnvFrom(config="a"), EnvFrom(secret="s", prefix="P_")))
    own = resolve(one, Material({"a": {"B": b"cfg", "C": b"cfg"}}, {"s": {"K": b"sec"}}))
    assert own == {"B": "cfg", "C": "env", "P_K": "sec"}
    assert full_env(IMAGE, "host", own) == {"PATH": "/img", "HOSTNAME": "host", "B": "cfg", "C": "env", "P_K": "sec"}


def test_there_is_always_a_path() -> None:
    assert "/usr/bin" in full_env(Image("x", "y", ()), "h", {})["PATH"]


def test_a_variable_sees_those_before_it() -> None:
    one = container(env=(Env("A", "1"), Env("B", "$(A)$(C)"), Env("C", "3")))
    assert resolve(one) == {"A": "1", "B": "1$(C)", "C": "3"}


def test_values_of_configs_are_not_expanded() -> None:
    one = container(env=(Env("A", "1"), Env("B", config="a", key="k")))
    assert resolve(one, Material({"a": {"k": b"$(A)"}}))["B"] == "$(A)"


def test_a_missing_secret_is_told_without_any_content() -> None:
    one = container(env=(Env("T", secret="s", key="token"),))
    with pytest.raises(
        RetryError, match="secret default/s does not exist; env 'T' of container 'main' of pod default/app"
    ):
        resolve(one)
    with pytest.raises(RetryError, match="secret default/s has no key 'token'") as caught:
        resolve(one, Material(secrets={"s": {"other": b"hush"}}))
    assert "hush" not in str(caught.value)


def test_optional_sources_may_be_missing() -> None:
    one = container(
        env=(Env("A", config="a", key="k", optional=True), Env("B", config="b", key="k", optional=True)),
        env_from=(EnvFrom(secret="s", optional=True),),
    )
    assert resolve(one, Material({"b": {}})) == {}


def test_bytes_that_are_no_text_are_refused_by_name() -> None:
    one = container(env=(Env("A", config="a", key="k"),))
    with pytest.raises(PermanentError, match="key 'k' of config map default/a is not UTF-8 text"):
        resolve(one, Material({"a": {"k": b"\xff"}}))
    with pytest.raises(PermanentError, match="zero byte"):
        resolve(one, Material({"a": {"k": b"a\0b"}}))


def test_keys_that_can_not_be_names_are_left_out() -> None:
    assert resolve(container(env_from=(EnvFrom(config="a"),)), Material({"a": {"a=b": b"1", "ok": b"2"}})) == {
        "ok": "2"
    }
