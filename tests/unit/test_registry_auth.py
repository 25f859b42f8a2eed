"""Credentials and challenges: what is read, what is refused, and that no secret gets into a sentence."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from edged.errors import PermanentError
from edged.images.auth import Challenge, Keyring, Login, Logins, Token, parse_challenges, read_token

SECRET = "s3cr3t-value"


def logins(tmp_path: Path, **content: Any) -> Logins:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    return Logins.read(file)


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "key", ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/", "http://r.example:5000/v1"]
)
def test_a_login_is_found_however_its_host_is_written(tmp_path: Path, key: str) -> None:
    found = logins(tmp_path, auths={key: {"auth": packed(f"ann:{SECRET}:x")}}).find("r.example:5000", "a/b")
    assert found == Login("ann", f"{SECRET}:x")


def test_docker_hub_is_found_under_the_name_that_docker_login_writes(tmp_path: Path) -> None:
    entry = {"username": "ann", "password": SECRET}
    found = logins(tmp_path, auths={"https://index.docker.io/v1/": entry}).find("docker.io", "library/a")
    assert found == Login("ann", SECRET)


def test_the_login_for_the_longer_path_wins(tmp_path: Path) -> None:
    auths = {name: {"username": name, "password": "x"} for name in ("r.io", "r.io/team", "r.io/team/app")}
    both = logins(tmp_path, auths=auths)
    assert [both.find("r.io", path) for path in ("team/app", "team/other", "else")] == [
        Login("r.io/team/app", "x"),
        Login("r.io/team", "x"),
        Login("r.io", "x"),
    ]
    assert both.find("other.io", "team/app") is None


def test_an_identity_token_is_a_login_without_a_password(tmp_path: Path) -> None:
    entry = {"auth": packed("00000000:"), "identitytoken": SECRET}
    assert logins(tmp_path, auths={"r.io": entry}).find("r.io", "a") == Login(identity_token=SECRET)


@pytest.mark.parametrize(
    "content",
    [{"auths": {"r.io": {}}, "credsStore": "desktop"}, {"credHelpers": {"r.io": "ecr-login"}}],
)
def test_a_credential_helper_is_refused_with_a_sentence_only_where_it_would_be_asked(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    read = logins(tmp_path, **content)
    assert read.find("other.io", "a") is None
    with pytest.raises(PermanentError, match=r"r\.io lies with a credential helper"):
        read.find("r.io", "a")


@pytest.mark.parametrize(
    "raw",
    [
        f'{{"auths": {{"r.io": {{"auth": "{SECRET}!"}}}}}}',
        f'{{"auths": {{"r.io": {{"auth": "{packed(SECRET)}"}}}}}}',
        f'{{"auths": {{"r.io": {{"password": "{SECRET}"}}}}}}',
        f'{{"auths": {{"r.io": ["{SECRET}"]}}}}',
        f'{{"auths": "{SECRET}"}}',
        f'{{"auths": {{"r.io": {{"auth": "{SECRET}"',
        f"{SECRET}",
    ],
)
def test_a_malformed_file_is_refused_without_quoting_it(tmp_path: Path, raw: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(raw)
    with pytest.raises(PermanentError) as caught:
        Logins.read(file).find("r.io", "a")
    assert str(file) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert packed(SECRET) not in str(caught.value)
    assert caught.value.__cause__ is None


def test_secrets_dont_show_when_printed() -> None:
    assert SECRET not in repr(Login("ann", SECRET)) + repr(Token(SECRET, 0.0)) + str([Login("ann", SECRET)])


def test_challenges_are_read_with_their_quotes_and_several_of_them() -> None:
    header = 'Basic realm="a, b", Bearer realm="https://t/x",service="s \\"q\\"",scope="repository:a/b:pull,push"'
    assert parse_challenges(header) == [
        Challenge("basic", {"realm": "a, b"}),
        Challenge("bearer", {"realm": "https://t/x", "service": 's "q"', "scope": "repository:a/b:pull,push"}),
    ]


def test_unquoted_parameters_and_upper_case_are_understood() -> None:
    assert parse_challenges("BEARER Realm=https://t/x , service=s") == [
        Challenge("bearer", {"realm": "https://t/x", "service": "s"})
    ]


@pytest.mark.parametrize("garbage", ["", ",,,", "=", '"', "Bearer realm=" + '"' * 9999, "\\" * 9999, "a " * 9999])
def test_garbage_in_a_challenge_never_crashes(garbage: str) -> None:
    assert all(c.scheme != "basic" for c in parse_challenges(garbage))


def test_a_token_lives_as_long_as_it_says_with_some_to_spare() -> None:
    assert read_token(b'{"access_token": "t", "expires_in": 100}', "h", now=1000.0) == Token("t", 1080.0)
    assert read_token(b'{"token": "t"}', "h", now=0.0) == Token("t", 48.0)


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"token": ""}', b'{"token": "a\\r\\nX-Evil: 1"}', b'{"token": "\xff"}'])
def test_a_token_that_cannot_stand_in_a_header_is_refused_without_quoting_it(raw: bytes) -> None:
    with pytest.raises(PermanentError, match="token server h") as caught:
        read_token(raw, "h", 0.0)
    assert "Evil" not in str(caught.value)


def secret(**auths: dict[str, str]) -> dict[str, bytes]:
    return {".dockerconfigjson": json.dumps({"auths": auths}).encode()}


def users(keyring: Keyring, host: str, repository: str = "a/b") -> list[str]:
    return [login.user for login in keyring.find_all(host, repository)]


def login(user: str) -> dict[str, str]:
    return {"username": user, "password": "x"}


def test_all_logins_that_fit_are_tried_the_pods_before_the_nodes_own(tmp_path: Path) -> None:
    own = tmp_path / "config.json"
    own.write_bytes(secret(**{"r.example": login("node"), "other.example": login("other")})[".dockerconfigjson"])
    first, second = secret(**{"r.example": login("first")}), secret(**{"https://r.example/v2/": login("second")})
    assert users(Keyring([first, second, first], str(own)), "r.example") == ["first", "second", "node"]
    assert users(Keyring([first], str(tmp_path / "none.json")), "other.example") == []


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        ("*.example", "r.example", True),
        ("r*.example", "r7.example", True),
        ("*.example", "a.r.example", False),
        ("*", "r.example", False),
        ("*.example:5000", "r.example:5000", True),
        ("*.example:5000", "r.example", False),
        ("*.example/a", "r.example", True),
        ("*.example/c", "r.example", False),
    ],
)
def test_a_star_in_a_secrets_host_stands_for_a_part_of_one_label(pattern: str, host: str, fits: bool) -> None:
    assert users(Keyring([secret(**{pattern: login("u")})], ""), host) == (["u"] if fits else [])


def test_the_older_kind_of_secret_is_understood_and_other_keys_are_left_alone() -> None:
    old = {".dockercfg": json.dumps({"r.example": login("old")}).encode(), "note": b"\xff"}
    keyring = Keyring([old], "")
    assert users(keyring, "r.example") == ["old"]
    assert keyring.complaints == []


def test_a_secret_that_is_none_is_left_out_and_named_without_being_quoted() -> None:
    keyring = Keyring([{".dockerconfigjson": b'{"auths": "s3cret"}'}, secret(**{"r.example": login("u")})], "")
    assert users(keyring, "r.example") == ["u"]
    [complaint] = keyring.complaints
    assert "a registry secret's .dockerconfigjson is not a docker config.json" in complaint
    assert "s3cret" not in complaint
