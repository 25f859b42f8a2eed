"""The tar reader against the standard library's writer, and against archives that nobody honest makes."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.errors import PermanentError
from edged.images import tarstream
from edged.images.tarstream import Entry, TarReader

name = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=120)
members = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.lists(name, min_size=1, max_size=4).map("/".join),
            "type": st.sampled_from(
                [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
            ),
            "content": st.binary(max_size=1500),
            "link": name,
            "mode": st.integers(0, 0o7777),
            "uid": st.integers(0, 2**32 - 2),
            "gid": st.integers(0, 2**32 - 2),
            "mtime": st.integers(0, 2**33),
            "device": st.tuples(st.integers(0, 4095), st.integers(0, 255)),
        }
    ),
    max_size=8,
)


def write(items: list[dict[str, object]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for item in items:
            info = tarfile.TarInfo(str(item["name"]))
            info.type, info.mode, info.mtime = item["type"], item["mode"], item["mtime"]  # type: ignore[assignment]
            info.uid, info.gid = item["uid"], item["gid"]  # type: ignore[assignment]
            content = b""
            if info.type == tarfile.REGTYPE:
                content = item["content"]  # type: ignore[assignment]
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = str(item["link"])
            if info.type == tarfile.CHRTYPE:
                info.devmajor, info.devminor = item["device"]  # type: ignore[misc]
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(data: bytes, chunk: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    stream = io.BytesIO(data)
    reader = TarReader(lambda n: stream.read(min(n, chunk)), "t.tar")
    return [(entry, b"".join(reader.content())) for entry in reader]


@given(members, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.sampled_from([1 << 20, 7, 600]))
@settings(deadline=None)
def test_what_the_standard_library_writes_is_read_back_the_same(
    items: list[dict[str, object]], form: int, chunk: int
) -> None:
    for item, (entry, content) in zip(items, read(write(items, form), chunk), strict=True):
        expected = item["type"] if item["type"] != tarfile.REGTYPE else b"0"
        assert entry.kind.encode() == expected
        assert entry.name.rstrip(b"/") == str(item["name"]).encode().rstrip(b"/")
        assert (entry.mode, entry.uid, entry.gid) == (item["mode"], item["uid"], item["gid"])
        assert entry.mtime == item["mtime"] * 10**9  # type: ignore[operator]
        assert content == (item["content"] if item["type"] == tarfile.REGTYPE else b"")
        if item["type"] in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            assert entry.link == str(item["link"]).encode()
        if item["type"] == tarfile.CHRTYPE:
            assert entry.device == item["device"]


@given(members, st.integers(0), st.binary(min_size=1, max_size=20))
@settings(deadline=None)
def test_a_damaged_archive_ends_in_entries_or_a_permanent_error(
    items: list[dict[str, object]], where: int, damage: bytes
) -> None:
    data = write(items, tarfile.PAX_FORMAT)
    at = where % len(data)
    with contextlib.suppress(PermanentError):
        read(data[:at] + damage + data[at + len(damage) :])


@given(st.binary(max_size=3000))
def test_noise_is_no_archive_and_no_crash(noise: bytes) -> None:
    with contextlib.suppress(PermanentError):
        read(noise)


def regular(size: int = 5, kind: bytes = tarfile.REGTYPE) -> bytearray:
    info = tarfile.TarInfo("a")
    info.size, info.type = size, kind
    return bytearray(info.tobuf(tarfile.USTAR_FORMAT))


def with_checksum(header: bytearray) -> bytes:
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_a_file_that_ends_early_is_refused() -> None:
    with pytest.raises(PermanentError, match="ends early"):
        read(with_checksum(regular(5000)) + b"x" * 512)


def test_a_broken_header_in_the_middle_is_refused_and_not_taken_for_the_end() -> None:
    good = with_checksum(regular(0))
    with pytest.raises(PermanentError, match="checksum"):
        read(good + b"y" * 512 + bytes(1024))


def test_an_archive_without_its_end_mark_is_read() -> None:
    assert [e.name for e, _ in read(with_checksum(regular(0)))] == [b"a"]


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_an_endless_header_extension_is_refused_before_it_is_read(kind: bytes) -> None:
    header = with_checksum(regular(7 << 30, kind))
    handed_out = 0

    def endless(size: int) -> bytes:
        nonlocal handed_out
        handed_out += size
        return header if handed_out == 512 else bytes(size)

    with pytest.raises(PermanentError, match="header extension"):
        list(TarReader(endless, "t.tar"))
    assert handed_out == 512


def test_a_sparse_file_is_refused_by_name() -> None:
    with pytest.raises(PermanentError, match=r"'a' as a sparse file"):
        read(with_checksum(regular(0, tarfile.GNUTYPE_SPARSE)))


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(PermanentError, match="unknown type 'Z'"):
        read(with_checksum(regular(0, b"Z")))


@pytest.mark.parametrize("record", [b"no length", b"99 a=b\n", b"5 ab\n", b"6 a=bc", b"0 a=b\n", b"-6 a=b\n"])
def test_a_malformed_pax_record_is_refused(record: bytes) -> None:
    data = with_checksum(regular(len(record), b"x")) + record.ljust(512, b"\0") + with_checksum(regular(0))
    with pytest.raises(PermanentError, match="PAX"):
        read(data)


def test_extended_attributes_keep_their_bytes() -> None:
    value = bytes(range(256))
    body = b" SCHILY.xattr.security.capability=" + value + b"\n"
    record = str(len(body) + 3).encode() + body
    data = with_checksum(regular(len(record), b"x")) + record.ljust(512, b"\0") + with_checksum(regular(0))
    [(entry, _)] = read(data)
    assert entry.xattrs == {"security.capability": value}


def test_a_large_file_passes_through_in_small_pieces() -> None:
    size = 64 << 20
    source = [with_checksum(regular(size))]

    def stream(wanted: int) -> bytes:
        return source.pop() if source else bytes(min(wanted, 1 << 20))

    tracemalloc.start()
    reader = TarReader(stream, "t.tar")
    entry = next(iter(reader))
    total = sum(len(chunk) for chunk in reader.content())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (entry.kind, total) == (tarstream.REGULAR, size)
    assert peak < 4 << 20
