"""Which packages every Debian has, and where apt is to look."""

from __future__ import annotations

import pytest

from tools import debs

LISTS = """\
Package: base-files
Priority: required
Pre-Depends: awk
Version: 12

Package: mawk
Provides: awk
Depends: libc6 (>= 2.34)
Priority: required
Version: 1

Package: libc6
Depends: libgcc-s1
Priority: optional
Version: 2.36

Package: libgcc-s1
Priority: optional
Version: 12

Package: systemd
Essential: yes
Depends: libsystemd0 (= 252), default-dbus | dbus, libc6:any
Version: 252

Package: libsystemd0
Version: 252

Package: libelogind0
Provides: libsystemd0 (= 252)
Version: 246

Package: dbus
Version: 1

Package: crun
Depends: libc6, libyajl2
Version: 1.8
"""


def test_every_debian_has_the_required_packages_and_those_that_they_depend_on() -> None:
    names = [debs.field("Package", p) for p in debs.base_packages(LISTS)]
    assert names == ["base-files", "dbus", "libc6", "libgcc-s1", "libsystemd0", "mawk", "systemd"]


def test_a_paragraph_becomes_one_of_an_installed_package_without_what_only_downloads_need() -> None:
    text = "Package: a\nVersion: 1\nFilename: pool/a.deb\nSHA256: 00\nDepends: b\nTag: one,\n two\n"
    assert debs.as_status(text) == "Package: a\nStatus: install ok installed\nVersion: 1\nDepends: b\n"


@pytest.mark.parametrize(
    "sources",
    [
        "deb http://one/debian bookworm main\ndeb [signed-by=/x] http://two/debian-security bookworm-security main\n",
        "Types: deb\nURIs: http://one/debian/\nSuites: bookworm\n\nTypes: deb\nURIs: http://two/debian-security\n",
    ],
)
def test_mirrors_are_found_in_both_formats_of_apts_sources(sources: str) -> None:
    assert debs.mirrors_of(sources) == ("http://one/debian", "http://two/debian-security")


def test_sources_without_a_mirror_are_refused() -> None:
    with pytest.raises(debs.DebsError, match="name no mirror"):
        debs.mirrors_of("# nothing\n")
