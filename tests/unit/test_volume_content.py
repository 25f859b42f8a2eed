"""What files a volume has: sources, items, modes, fields, and paths that lead nowhere good (pure)."""

from __future__ import annotations

import pytest

from edged.errors import PermanentError, RetryError
from edged.model import (
    ConfigFiles,
    Container,
    DownwardFiles,
    DownwardItem,
    KeyToPath,
    Limits,
    Material,
    NodeFacts,
    Pod,
    Projected,
    ResourceRef,
    SecretFiles,
    Volume,
)
from edged.runtime.volumes.content import File, FileSource, files_of

MATERIAL = Material(
    {"app": {"a.conf": b"A", "b.conf": b"\x00\xff"}},
    {"key": {"token": b"s3cret"}},
    NodeFacts("board", memory=512 << 20),
)
POD = Pod(
    "default",
    "app",
    "uid-1",
    (Container("main", "x", limits=Limits(memory_limit=64 << 20, cpu_request=250)), Container("free", "x")),
    labels={"app": "web", "tier": "front"},
    annotations={"note": 'say "hi"'},
)


def files(source: FileSource, material: Material = MATERIAL) -> dict[str, File]:
    return files_of(POD, Volume("v", source), source, material)


def test_all_keys_become_files_unless_some_are_picked() -> None:
    assert files(ConfigFiles("app")) == {"a.conf": File(b"A", 0o644), "b.conf": File(b"\x00\xff", 0o644)}
    picked = ConfigFiles("app", (KeyToPath("a.conf", "sub/./x", 0o400), KeyToPath("a.conf", "y")), 0o600)
    assert files(picked) == {"sub/x": File(b"A", 0o400), "y": File(b"A", 0o600)}


def test_a_projected_volume_has_the_files_of_all_its_sources_in_its_own_mode() -> None:
    source = Projected(
        (
            ConfigFiles("app", mode=0o777),
            SecretFiles("key", (KeyToPath("token", "secret/token", 0o400),)),
            DownwardFiles(
                (DownwardItem("labels", "metadata.labels"), DownwardItem("name", "metadata.name", mode=0o604))
            ),
        ),
        0o440,
    )
    assert files(source) == {
        "a.conf": File(b"A", 0o440),
        "b.conf": File(b"\x00\xff", 0o440),
        "secret/token": File(b"s3cret", 0o400),
        "labels": File(b'app="web"\ntier="front"', 0o440),
        "name": File(b"app", 0o604),
    }


def test_of_two_sources_with_the_same_path_the_later_one_wins() -> None:
    source = Projected((ConfigFiles("app"), SecretFiles("key", (KeyToPath("token", "a.conf"),))))
    assert files(source)["a.conf"].content == b"s3cret"


def test_numbers_of_a_container_are_files_too() -> None:
    source = DownwardFiles(
        (
            DownwardItem("mem", resource=ResourceRef("limits.memory", "main", 1000 << 20)),
            DownwardItem("cpu", resource=ResourceRef("requests.cpu", "main", 1)),
            DownwardItem("unlimited", resource=ResourceRef("limits.memory", "free", 1000 << 20)),
            DownwardItem("note", "metadata.annotations['note']"),
        )
    )
    assert {path: file.content for path, file in files(source).items()} == {
        "mem": b"64",
        "cpu": b"250",
        "unlimited": b"512",
        "note": b'say "hi"',
    }
    with pytest.raises(PermanentError, match="container 'nobody', which the pod doesn't have"):
        files(DownwardFiles((DownwardItem("mem", resource=ResourceRef("limits.memory", "nobody")),)))


def test_what_is_missing_is_told_unless_it_is_optional() -> None:
    with pytest.raises(RetryError, match="secret default/none does not exist; volume 'v' of pod default/app refers"):
        files(SecretFiles("none"))
    with pytest.raises(RetryError, match="config map default/app has no key 'no'"):
        files(Projected((ConfigFiles("app", (KeyToPath("no", "x"),)),)))
    assert files(SecretFiles("none", optional=True)) == {}
    assert files(ConfigFiles("app", (KeyToPath("no", "x"), KeyToPath("a.conf", "y")), optional=True)).keys() == {"y"}


@pytest.mark.parametrize("path", ["../x", "/etc/x", "", ".", "a/../../x", "..data", "..2/x", "a\0b", "x" * 256])
def test_a_path_that_leads_out_of_its_volume_or_can_be_no_file_is_refused(path: str) -> None:
    with pytest.raises(PermanentError, match=r"volume 'v' of pod default/app"):
        files(ConfigFiles("app", (KeyToPath("a.conf", path),)))


def test_a_file_can_not_be_the_folder_of_another_one() -> None:
    with pytest.raises(PermanentError, match="'a' is a file and the folder of 'a/b' as well"):
        files(ConfigFiles("app", (KeyToPath("a.conf", "a"), KeyToPath("b.conf", "a/b"))))


def test_more_than_memory_should_hold_is_refused() -> None:
    with pytest.raises(PermanentError, match="has more than 8 MiB; use a hostPath or a claim"):
        files(ConfigFiles("big"), Material({"big": {"x": b"\0" * ((8 << 20) + 1)}}))
