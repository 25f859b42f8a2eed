"""Layers become folders for overlayfs, and no archive reaches outside its folder."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from edged.errors import PermanentError
from edged.images.layerstream import LayerStream
from edged.images.unpack import Bounds, unpack_layer
from tests.fakes.oci_layout import digest, layer, link, member

pytestmark = pytest.mark.root
Unpack = Callable[..., Path]


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Unpacks into tmp_path/jail/root; everything else under tmp_path must stay as it is."""
    root = tmp_path / "jail" / "root"
    root.mkdir(parents=True)

    def do(plain: bytes, packed: bytes | None = None, bounds: Bounds | None = None, diff_id: str = "") -> Path:
        packed = plain if packed is None else packed
        stream = LayerStream(
            io.BytesIO(packed),
            digest=digest(packed),
            size=len(packed),
            diff_id=diff_id or digest(plain),
            limit=(bounds or Bounds()).total_bytes,
            what="x.tar: layer 1",
        )
        unpack_layer(stream, root, bounds or Bounds())
        return root

    return do


def outside(tmp_path: Path) -> list[str]:
    ours = ("root", "root.files")
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not set(ours) & set(p.parts[-2:]))


def is_whiteout(path: Path) -> bool:
    s = path.lstat()
    return stat.S_ISCHR(s.st_mode) and s.st_rdev == 0


# ---------------------------------------------------------------- what must be kept


def test_owners_modes_times_links_and_devices_are_kept(unpack: Unpack) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep
    pax = {"SCHILY.xattr.security.capability": capability.decode("latin-1"), "SCHILY.xattr.user.note": "hi"}
    root = unpack(
        layer(
            member("./", None, mode=0o755),
            member("./bin/", None, mode=0o2750, uid=7, gid=8, mtime=1000),
            member("./bin/su", b"su", mode=0o4755, uid=0, mtime=1234567890),
            member("./bin/web", b"web", pax_headers=pax),
            link("./bin/sh", "su"),
            link("./bin/hard", "./bin/su", hard=True),
            link("./outside", "/etc/passwd"),
            member("./null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member("./disk", b"", type=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660, gid=6),
            member("./pipe", b"", type=tarfile.FIFOTYPE, mode=0o600, uid=1000),
        )
    )
    folder = (root / "bin").stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid, folder.st_mtime) == (0o2750, 7, 8, 1000)
    su = (root / "bin/su").stat()
    assert (stat.S_IMODE(su.st_mode), su.st_mtime, su.st_nlink) == (0o4755, 1234567890, 2)
    assert (root / "bin/hard").stat().st_ino == su.st_ino
    assert str((root / "bin/sh").readlink()) == "su"
    assert str((root / "outside").readlink()) == "/etc/passwd"
    assert os.getxattr(root / "bin/web", "security.capability") == capability
    assert os.getxattr(root / "bin/web", "user.note") == b"hi"
    null, disk, pipe = ((root / n).lstat() for n in ("null", "disk", "pipe"))
    assert (null.st_mode, null.st_rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (disk.st_mode, disk.st_rdev, disk.st_gid) == (stat.S_IFBLK | 0o660, os.makedev(8, 0), 6)
    assert (pipe.st_mode, pipe.st_uid) == (stat.S_IFIFO | 0o600, 1000)


def test_capabilities_of_a_file_survive_although_they_are_binary(unpack: Unpack) -> None:
    value = struct.pack("<IIIII", 0x02000001, 0x80 << 3, 0, 0, 0)
    body = b" SCHILY.xattr.security.capability=" + value + b"\n"
    record = str(len(body) + 2).encode() + body
    header, _ = member("x", record, type=tarfile.XHDTYPE)
    plain = layer(member("web", b"w"))
    extended = header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + plain
    root = unpack(extended)
    assert os.getxattr(root / "web", "security.capability") == value


def test_a_root_without_an_entry_of_its_own_can_be_entered_by_every_user(unpack: Unpack) -> None:
    old = os.umask(0o077)
    try:
        root = unpack(layer(member("a/b/c", b"x")))
    finally:
        os.umask(old)
    for folder in (root, root / "a", root / "a/b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_whiteouts_become_what_overlayfs_understands(unpack: Unpack) -> None:
    root = unpack(
        layer(
            member("etc", None),
            member("etc/.wh.motd", b""),
            member("var", None),
            member("var/.wh..wh..opq", b""),
            member("var/new", b"n"),
            member(".wh..wh.plnk", None),
        )
    )
    assert is_whiteout(root / "etc/motd")
    assert os.getxattr(root / "var", "trusted.overlay.opaque") == b"y"
    assert sorted(p.name for p in root.rglob("*")) == ["etc", "motd", "new", "var"]


@pytest.mark.parametrize("cover", [member("d", b"file"), link("d", "/etc"), link("d", "e")])
def test_a_whiteout_below_what_is_no_folder_any_more_changes_nothing(
    unpack: Unpack, cover: tuple[tarfile.TarInfo, bytes]
) -> None:
    root = unpack(
        layer(
            member("e", None),
            cover,
            member("d/.wh.passwd", b""),
            member("d/.wh..wh..opq", b""),
            member("d/x/.wh.y", b""),
        )
    )
    assert sorted(p.name for p in root.iterdir()) == ["d", "e"]
    assert not list((root / "e").iterdir())
    assert not os.listxattr(root / "e")


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_folder_that_is_hidden_and_made_anew_in_one_layer_shows_only_the_new(
    unpack: Unpack, whiteout_first: bool
) -> None:
    hide, make = member(".wh.lib", b""), member("lib", None)
    first, second = (hide, make) if whiteout_first else (make, hide)
    root = unpack(layer(first, second, member("lib/new", b"n")))
    assert os.getxattr(root / "lib", "trusted.overlay.opaque") == b"y"
    assert (root / "lib/new").read_bytes() == b"n"


def test_a_file_under_a_hidden_folder_brings_the_folder_back_without_its_old_content(unpack: Unpack) -> None:
    root = unpack(layer(member(".wh.lib", b""), member("lib/new", b"n")))
    assert os.getxattr(root / "lib", "trusted.overlay.opaque") == b"y"


def test_of_two_entries_with_one_name_the_later_wins(unpack: Unpack) -> None:
    root = unpack(
        layer(
            member("a", b"old"),
            member("a", b"new"),
            member("d/x", b"x"),
            member("d", None, mode=0o700),
            member("f", None),
            member("f/inside", b"1"),
            member("f", b"file"),
            link("g", "nowhere"),
            member("g", b"file"),
        )
    )
    assert (root / "a").read_bytes() == b"new"
    assert (root / "d/x").read_bytes() == b"x"
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700
    assert (root / "f").read_bytes() == b"file"
    assert (root / "g").read_bytes() == b"file"
    assert not (root / "nowhere").exists()


def test_a_link_to_a_neighbour_is_followed_when_something_lies_behind_it(unpack: Unpack) -> None:
    root = unpack(
        layer(member("usr/lib", None), link("lib", "usr/lib"), link("l2", "./usr/../lib"), member("l2/a", b"1"))
    )
    assert (root / "usr/lib/a").read_bytes() == b"1"


def test_the_time_of_a_folder_is_not_moved_by_what_comes_into_it_later(unpack: Unpack) -> None:
    root = unpack(
        layer(member("d", None, mtime=5), member("d/e", None, mtime=6), member("d/e/f", b""), member("d/g", b""))
    )
    assert [(root / n).stat().st_mtime for n in ("d", "d/e")] == [5, 6]


def test_what_speaks_to_this_machine_is_left_out(unpack: Unpack) -> None:
    pax = {f"SCHILY.xattr.{k}": "y" for k in ("trusted.overlay.redirect", "user.overlay.opaque", "security.selinux")}
    root = unpack(layer(member("d", None, pax_headers=pax)))
    assert not [x for x in os.listxattr(root / "d") if x != "security.selinux"]


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.compress, lambda d: gzip.compress(d[:700]) + gzip.compress(d[700:])]
)
def test_compressed_layers_are_told_by_their_first_bytes(unpack: Unpack, pack: Callable[[bytes], bytes]) -> None:
    plain = layer(member("a", b"A" * 100_000))
    assert (unpack(plain, pack(plain)) / "a").stat().st_size == 100_000


# ---------------------------------------------------------------- what must be refused


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([member("../evil", b"x")], r"'../evil'.*'\.\.'"),
        ([member("a/../../evil", b"x")], r"'\.\.'"),
        ([member("/etc/evil", b"x")], "absolute"),
        ([link("d", "/etc"), member("d/evil", b"x")], r"'d/evil'.*symbolic link to '/etc' that leads outside"),
        ([link("d", ".."), member("d/evil", b"x")], "leads outside"),
        ([link("d", "a/../../.."), member("a", None), member("d/evil", b"x")], "leads outside"),
        ([link("d", "/etc"), link("e", "d"), member("e/f/evil", b"x")], "leads outside"),
        ([link("d", "/etc"), link("evil", "d/passwd", hard=True)], "leads outside"),
        ([link("evil", "/etc/passwd", hard=True)], "absolute"),
        ([link("evil", "../../../../etc/passwd", hard=True)], r"'\.\.'"),
        ([link("evil", "not/here", hard=True)], "missing"),
        ([link("evil", "gone", hard=True)], "which the layer has not"),
        ([link("evil", ".", hard=True)], "hard link to the root"),
        ([link("a", "b"), link("b", "a"), member("a/evil", b"x")], "in circles"),
        ([member("a", b"file"), member("a/evil", b"x")], "not a directory"),
        ([member(".wh...", b"")], "hides nothing"),
        ([member(".wh.", b"")], "hides nothing"),
        ([member("evil", b"", type=tarfile.CHRTYPE, devmajor=0, devminor=0)], "0:0"),
        ([member("/".join("d" * 300), b"x")], "deep"),
        ([member("n" * 5000, b"x")], "longer than 4096"),
        ([member("n" * 300, b"x")], "name too long"),
        ([member(".", b"file")], "root can only be a directory"),
        ([member("a", b"x", uid=2**32 - 1)], "owner"),
        ([link("evil", "")], "link to nothing"),
    ],
)
def test_a_hostile_entry_is_refused_by_name_and_nothing_appears_outside(
    unpack: Unpack, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], complaint: str
) -> None:
    passwd = Path("/etc/passwd").stat()
    with pytest.raises(PermanentError, match=f"(?is)x.tar: layer 1.*{complaint}"):
        unpack(layer(*members))
    assert outside(tmp_path) == ["jail"]
    assert not Path("/etc/evil").exists()
    assert Path("/etc/passwd").stat().st_nlink == passwd.st_nlink


def test_a_link_whose_target_is_replaced_by_one_that_leads_outside_is_refused(unpack: Unpack, tmp_path: Path) -> None:
    members = [member("d", None), member("d/a", b"1"), member("d", b"file"), link("d", "../.."), member("d/evil", b"x")]
    with pytest.raises(PermanentError, match="leads outside"):
        unpack(layer(*members))
    assert outside(tmp_path) == ["jail"]


def test_a_name_with_a_nul_byte_is_refused(unpack: Unpack) -> None:
    pax = {"path": "a\0b"}
    with pytest.raises(PermanentError, match="refused"):
        unpack(layer(member("x", b"1", pax_headers=pax)))


def test_too_many_entries_are_refused(unpack: Unpack) -> None:
    with pytest.raises(PermanentError, match="more than 10 entries"):
        unpack(layer(*(member(str(n), b"") for n in range(11))), bounds=Bounds(entries=10))


def test_a_decompression_bomb_is_refused_when_it_passes_the_limit_in_little_memory(unpack: Unpack) -> None:
    plain = layer(member("zeros", bytes(100 << 20)))
    packed = gzip.compress(plain, 9)
    assert len(packed) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(PermanentError, match="unpacks to more than 20971520 bytes"):
            unpack(plain, packed, bounds=Bounds(total_bytes=20 << 20))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
def test_a_layer_that_is_cut_short_is_refused(unpack: Unpack, pack: Callable[[bytes], bytes]) -> None:
    plain = layer(member("a", os.urandom(50_000)))
    with pytest.raises(PermanentError, match=r"ends early|diff_id"):
        unpack(plain, pack(plain)[:-30_000])


def test_flipped_bits_in_compressed_data_are_refused(unpack: Unpack) -> None:
    plain = layer(member("a", os.urandom(50_000)))
    for pack in (gzip.compress, zstandard.compress):
        packed = bytearray(pack(plain))
        packed[len(packed) // 2] ^= 0xFF
        with pytest.raises(PermanentError, match=r"damaged|unreadable|instead|diff_id|checksum"):
            unpack(plain, bytes(packed))


def test_a_zstd_frame_that_wants_too_much_memory_is_refused(unpack: Unpack) -> None:
    plain = layer(member("a", os.urandom(1 << 20) * 70))
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=26, enable_ldm=False)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(plain)
    with pytest.raises(PermanentError, match="window above 32 MiB"):
        unpack(plain, packed)


def test_content_that_is_not_what_its_digest_says_is_refused(unpack: Unpack) -> None:
    with pytest.raises(PermanentError, match="diff_id sha256:"):
        unpack(layer(member("a", b"x")), diff_id="sha256:" + "0" * 64)
