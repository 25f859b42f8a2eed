"""The runtime's parsers and small files, on plain folders."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from edged.errors import PermanentError, RetryError
from edged.model import ContainerPhase, Image, Security
from edged.runtime.bundle import User
from edged.runtime.cgroup import Cgroups, Mode
from edged.runtime.logs import LogFile
from edged.runtime.mounts import MountPoint, Overlay, overlay_options, parse_mountinfo
from edged.runtime.records import ContainerRecord, Places, SandboxRecord, parse_id, read, write_atomically
from edged.runtime.users import resolve_user, user_of
from edged.runtime.volumes.content import File
from edged.runtime.volumes.files import write_files

HYBRID = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_mount_points_are_read_with_their_spaces_and_propagation() -> None:
    (point,) = parse_mountinfo(
        r"36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue"
    )
    assert point == MountPoint("/mnt/a b", "ext3", "rw,errors=continue", True, "98:0", "/")


@pytest.mark.parametrize(
    ("text", "mode", "hidden"),
    [
        (HYBRID, Mode.HYBRID, ("/sys/fs/cgroup/unified",)),
        ("\n".join(HYBRID.splitlines()[:-1]), Mode.LEGACY, ()),
        (UNIFIED, Mode.UNIFIED, ()),
    ],
)
def test_the_rung_of_cgroups_is_told_by_the_mounts(text: str, mode: Mode, hidden: tuple[str, ...]) -> None:
    groups = Cgroups("edged", list(parse_mountinfo(text)), capabilities=0)
    assert (groups.mode, groups.hidden) == (mode, hidden)
    assert groups.path("uid", "main", 2) == "/edged/uid/main-2"


@pytest.mark.root
def test_no_pid_is_ours_that_is_not_in_our_cgroup() -> None:
    groups = Cgroups("edged")
    assert not groups.owns(groups.path("uid", "main", 0), os.getpid())
    assert not groups.owns(groups.path("uid", "main", 0), 0)
    assert not groups.owns(groups.path("uid", "main", 0), 1 << 30)


def test_layers_are_stacked_with_the_newest_first_and_named_shortly() -> None:
    overlay = Overlay(("/store/aa", "/store/bb"), "/rw/up", "/rw/work", "/root")
    assert overlay_options(overlay) == ("/store", "lowerdir=bb:aa,upperdir=/rw/up,workdir=/rw/work")


def test_odd_folders_are_escaped_for_the_kernel() -> None:
    overlay = Overlay(("/a:b/l,1",), "/rw,x", "/w", "/root")
    assert overlay_options(overlay) == ("/a:b", r"lowerdir=l\,1,upperdir=/rw\,x,workdir=/w")
    apart = Overlay(("/a:b/1", "/c/2"), "/u", "/w", "/root")
    assert overlay_options(apart) == ("/", r"lowerdir=/c/2:/a\:b/1,upperdir=/u,workdir=/w")


def test_an_image_without_layers_or_with_too_many_is_refused() -> None:
    with pytest.raises(PermanentError, match="no layers"):
        overlay_options(Overlay((), "/u", "/w", "/t"))
    with pytest.raises(PermanentError, match="has 130 layers, too many"):
        overlay_options(Overlay(tuple(f"/s/{n:032}" for n in range(130)), "/u", "/w", "/t"))


@pytest.mark.parametrize("bad", ["", "a", "a.b", "a.b.c", "../x.main.0", "uid.Main.0", "uid.main.-1", "u/id.main.0"])
def test_what_is_no_container_id_is_refused(bad: str) -> None:
    with pytest.raises(PermanentError, match="is not a container id"):
        parse_id(bad)


def test_a_pod_uid_may_have_dots() -> None:
    assert parse_id("a.b.main.12") == ("a.b", "main", 12)


def test_records_come_back_as_written_and_broken_ones_as_unknown(tmp_path: Path) -> None:
    places = Places(tmp_path / "run", tmp_path / "state")
    record = ContainerRecord("uid.main.1", "uid", "main", 1, identity="x", pid=7, started_at=2.5, exit_code=3)
    places.container(record.id).mkdir(parents=True)
    places.write(record)
    places.write_sandbox(SandboxRecord("uid", "default/app", 30.0, "10.0.0.2"))
    assert list(places.containers()) == [record]
    assert [s.ip for s in places.sandboxes()] == ["10.0.0.2"]
    (places.container(record.id) / "record").write_bytes(b"\xff\xff")
    (found,) = places.containers()
    assert (found.id, found.identity) == (record.id, "")
    assert found.state(ContainerPhase.UNKNOWN, True).phase is ContainerPhase.UNKNOWN


def test_a_folder_that_is_gone_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(RetryError, match="/gone/record can't be written: No such file"):
        write_atomically(tmp_path / "gone" / "record", b"x")


def test_files_of_a_volume_change_all_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    assert write_files(folder, {"a": File(b"1", 0o644), "sub/b": File(b"2", 0o600)})
    assert not write_files(folder, {"a": File(b"1", 0o644), "sub/b": File(b"2", 0o600)})
    assert (folder / "sub" / "b").read_bytes() == b"2"
    assert (folder / "a").readlink() == Path("..data/a")
    assert write_files(folder, {"c": File(b"3", 0o644)})
    assert sorted(n.name for n in folder.iterdir()) == ["..2", "..data", "c"]
    assert write_files(folder, {})
    assert sorted(n.name for n in folder.iterdir()) == ["..3", "..data"]


def test_a_long_line_is_written_in_parts_and_an_unfinished_one_at_the_end(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", 1 << 20)
    log.write(0, b"one\ntw", 0)
    log.write(1, b"x" * 9000, 1)
    log.write(0, b"o\nrest", 2)
    log.close()
    lines = [line.split(" ", 3) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(stream, kind, text[:4]) for _, stream, kind, text in lines] == [
        ("stdout", "F", "one"),
        ("stderr", "P", "xxxx"),
        ("stdout", "F", "two"),
        ("stdout", "P", "rest"),
    ]
    assert lines[0][0] == "1970-01-01T00:00:00.000000000+00:00"


def test_a_log_keeps_its_older_half(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", 200)
    for n in range(20):
        log.write(0, b"%d\n" % n, n)
    log.close()
    kept = (tmp_path / "log.1").read_text().splitlines() + (tmp_path / "log").read_text().splitlines()
    assert kept[-1].endswith(" 19")
    assert len(kept) in (4, 5, 6, 7, 8)
    assert (tmp_path / "log").stat().st_size <= 200


def test_more_than_a_log_at_once_keeps_whole_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", 500)
    log.write(0, b"".join(b"%d\n" % n for n in range(100)), 0)
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ")[1:3] for line in lines] == [["stdout", "F"]] * len(lines)
    assert lines[-1].endswith(" 99")


def image(tmp_path: Path, user: str) -> Image:
    low, high = tmp_path / "low" / "etc", tmp_path / "high" / "etc"
    if not low.exists():
        low.mkdir(parents=True)
        high.mkdir(parents=True)
        (low / "passwd").write_text("root:x:0:0::/:/bin/sh\nold:x:5:5::/:\n")
        (high / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:\nbroken\n")
        (low / "group").write_text("web:x:1002:app,other\nops:x:7:\n")
    return Image("app:1", "sha256:0", (os.fspath(low.parent), os.fspath(high.parent)), user=user)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User()),
        ("0", User(0, 0)),
        ("1000", User(1000, 1001, (1002,))),
        ("4321", User(4321, 0)),
        ("4321:99", User(4321, 99)),
        ("app", User(1000, 1001, (1002,))),
        ("app:ops", User(1000, 7)),
    ],
)
def test_users_are_found_in_the_image(tmp_path: Path, user: str, expected: User) -> None:
    assert resolve_user(image(tmp_path, user), user) == expected


@pytest.mark.parametrize(
    ("security", "groups", "expected"),
    [
        (Security(), (), User(1000, 7)),
        (Security(user=4321), (), User(4321, 0)),  # neither the image's user nor its group
        (Security(user=1000), (), User(1000, 1001, (1002,))),
        (Security(group=8), (), User(1000, 8)),
        (Security(user=1000, group=8, groups=(3, 8, 1002)), (5,), User(1000, 8, (1002, 3, 5))),
    ],
)
def test_what_the_pod_says_of_its_user_stands_over_the_image(
    tmp_path: Path, security: Security, groups: tuple[int, ...], expected: User
) -> None:
    assert user_of(image(tmp_path, "app:ops"), security, groups) == expected


@pytest.mark.parametrize(
    ("user", "word"), [("nobody", "user 'nobody'"), ("old", "user 'old'"), ("app:none", "group 'none'")]
)
def test_a_user_that_the_image_does_not_have_is_told(tmp_path: Path, user: str, word: str) -> None:
    with pytest.raises(PermanentError, match=word):
        resolve_user(image(tmp_path, user), user)


def test_a_passwd_that_links_out_of_the_image_is_not_followed(tmp_path: Path) -> None:
    made = image(tmp_path, "root:root")
    for layer in made.layers:
        (Path(layer) / "etc" / "passwd").unlink()
        (Path(layer) / "etc" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(PermanentError, match="user 'root'"):
        resolve_user(made, made.user)


def test_records_of_the_version_before_are_still_understood(tmp_path: Path) -> None:
    first = {
        "id": "u.main.1", "pod_uid": "u", "name": "main", "attempt": 1, "identity": "7a7f582b6af2", "pid": 7,
        "conmon": 6, "pipes": [1, 2], "started_at": 5.0, "started_wall": 6.0, "stop_requested_at": 7.0,
    }  # fmt: skip
    (tmp_path / "record").write_bytes(msgspec.msgpack.encode(first))
    record = read(tmp_path / "record", ContainerRecord)
    assert record is not None
    state = record.state(ContainerPhase.RUNNING, monitored=True)
    assert (state.post_started, state.signalled, state.pre_stop, record.stop_signal) == (True, False, None, 15)
    (tmp_path / "sandbox").write_bytes(
        msgspec.msgpack.encode({"pod_uid": "u", "pod": "default/app", "termination_grace": 3.0, "ip": "10.0.0.2"})
    )
    sandbox = read(tmp_path / "sandbox", SandboxRecord)
    assert sandbox is not None
    assert (sandbox.users, sandbox.evicted, sandbox.ip) == (0, "", "10.0.0.2")
