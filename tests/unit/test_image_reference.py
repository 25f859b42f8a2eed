"""References: Docker's short forms, the distribution project's grammar, and sentences for what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import PermanentError
from edged.images.reference import normalise, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4

label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
component = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
registry = st.one_of(
    st.builds("{}.{}".format, label, label),
    st.builds("{}:{}".format, label, st.integers(1, 65535)),
    st.just("localhost"),
    st.just("[2001:db8::1]:5000"),
)
tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
path = st.lists(component, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b:x", "docker.io/a/b:x"),
        ("localhost/demo:1", "localhost/demo:1"),
        ("localhost:5000/demo", "localhost:5000/demo:latest"),
        ("ghcr.io/o/r:v1.2.3-rc.1", "ghcr.io/o/r:v1.2.3-rc.1"),
        (f"host:5000/a/b@{DIGEST}", f"host:5000/a/b@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        ("a__b/c--d", "docker.io/a__b/c--d:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
    ],
)
def test_short_forms_become_the_name_that_docker_would_use(written: str, canonical: str) -> None:
    assert normalise(written) == canonical


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("", "empty"),
        ("Busybox", "lower case"),
        ("a/B", "lower case"),
        ("a//b", "''"),
        ("/a", "''"),
        ("a/", "''"),
        ("a:", "tag ''"),
        ("a:-x", "tag '-x'"),
        ("a:" + "x" * 129, "128"),
        ("a@sha256:12", "64 hex digits"),
        ("a@md5:" + "0" * 32, "sha256"),
        (f"a@{DIGEST.upper()}", "sha256"),
        ("a b", "'a b'"),
        ("a..b", "'a..b'"),
        ("a___b", "'a___b'"),
        ("-a", "'-a'"),
        ("host:port/a", "host name"),
        ("localhost/", "names no repository"),
        ("../etc/passwd", "'..'"),
        ("a\n", "'a\\\\n'"),
        ("\u00e9", "'\u00e9'"),
        ("0123456789abcdef" * 4, "image id"),
        ("x" * 250 + "/" + "y" * 10, "longer than 255"),
        ("x" * 2000, "2000 characters"),
    ],
)
def test_what_is_no_reference_is_refused_with_a_sentence_that_names_the_part(written: str, complaint: str) -> None:
    with pytest.raises(PermanentError) as refused:
        parse(written)
    assert complaint.replace("\\\\", "\\") in str(refused.value)


@given(registry, path, tag)
def test_a_full_name_is_its_own_canonical_form(host: str, repository: str, tag: str) -> None:
    written = f"{host}/{repository}:{tag}"
    assert normalise(written) == written
    parsed = parse(written)
    assert (parsed.registry, parsed.repository, parsed.tag, parsed.digest) == (host, repository, tag, "")


@given(st.one_of(path, st.builds("{}/{}".format, registry, path)), st.one_of(st.just(""), tag.map(":{}".format)))
def test_normalising_twice_changes_nothing(name: str, tag: str) -> None:
    try:
        once = normalise(name + tag)
    except PermanentError:
        return  # 64 hex digits by chance
    assert normalise(once) == once


@given(st.text(max_size=80))
def test_any_text_is_either_a_reference_or_a_permanent_error(text: str) -> None:
    try:
        parsed = parse(text)
    except PermanentError:
        return
    assert bool(parsed.tag) != bool(parsed.digest)
    assert ".." not in parsed.repository.split("/")
