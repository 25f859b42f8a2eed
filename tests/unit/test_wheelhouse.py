"""What goes into a wheelhouse, decided from the lock and the wheels' own metadata."""

from __future__ import annotations

import hashlib

import pytest

from tools import wheelhouse
from tools.wheelhouse import Pin, Target, WheelhouseError

NODE = Target("amd64", "3.11")
LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:cc
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:dd
PyNaCl==1.6.2 \\
    --hash=sha256:ee
"""


def test_a_lock_is_read_with_its_markers_and_every_hash() -> None:
    pins = wheelhouse.read_lock(LOCK)
    assert pins[0] == Pin("numpy", "2.4.6", "python_full_version < '3.12'", ("sha256:aa", "sha256:bb"))
    assert pins[3].name == "pynacl"
    assert pins[3].line() == "pynacl==1.6.2 --hash=sha256:ee"


def test_a_lock_with_a_package_that_is_not_pinned_is_refused() -> None:
    with pytest.raises(WheelhouseError, match="'numpy>=2' is not pinned by =="):
        wheelhouse.read_lock("numpy>=2 \\\n    --hash=sha256:aa\n")


@pytest.mark.parametrize(("python", "numpy"), [("3.11", "2.4.6"), ("3.13", "2.5.5")])
def test_the_targets_python_decides_which_of_two_versions_is_taken(python: str, numpy: str) -> None:
    pins = wheelhouse.pins_for(wheelhouse.read_lock(LOCK), Target("arm64", python))
    assert pins["numpy"].version == numpy
    assert "colorama" not in pins


def test_a_package_wants_what_holds_on_the_target_and_in_the_chosen_extras() -> None:
    lines = [
        "cffi>=2; platform_python_implementation != 'PyPy'",
        "pywin32; sys_platform == 'win32'",
        "psycopg-binary; extra == 'binary'",
        "psycopg-pool; extra == 'pool'",
        "uvicorn[standard]>=1",
        "backport; python_version < '3.12'",
    ]
    assert wheelhouse.needed(lines, ["binary"], NODE) == {
        ("cffi", frozenset()),
        ("psycopg-binary", frozenset()),
        ("uvicorn", frozenset({"standard"})),
        ("backport", frozenset()),
    }
    assert ("backport", frozenset()) not in wheelhouse.needed(lines, [], Target("amd64", "3.13"))


def test_a_machine_specific_marker_is_judged_for_the_target_and_not_for_this_machine() -> None:
    line = ["greenlet; platform_machine == 'aarch64'"]
    assert wheelhouse.needed(line, [], Target("arm64", "3.11"))
    assert not wheelhouse.needed(line, [], Target("armhf", "3.11"))


def test_a_version_is_a_hash_over_names_and_contents_in_any_order() -> None:
    files = {"b.whl": "22", "a.whl": "11"}
    assert wheelhouse.version_of("1.0", files) == wheelhouse.version_of("1.0", dict(reversed(files.items())))
    listed = b"11  a.whl\n22  b.whl\n"  # what sha256sum prints
    assert wheelhouse.version_of("1.0", files) == f"1.0-{hashlib.sha256(listed).hexdigest()[:12]}"
    assert wheelhouse.version_of("1.0", {"b.whl": "22", "c.whl": "11"}) != wheelhouse.version_of("1.0", files)


def test_requirements_name_every_wheel_with_its_hash_but_pip() -> None:
    text = wheelhouse.requirements_text(
        {
            "pip-26.3-py3-none-any.whl": "33",
            "paho_mqtt-2.2.0-py3-none-any.whl": "22",
            "edged-0.1.0-py3-none-any.whl": "11",
        }
    )
    assert text == "edged==0.1.0 \\\n    --hash=sha256:11\npaho-mqtt==2.2.0 \\\n    --hash=sha256:22\n"


def test_wheels_for_a_newer_libc_than_the_oldest_debian_has_are_not_asked_for() -> None:
    platforms = Target("arm64", "3.13").platforms()
    assert platforms[0] == "manylinux_2_36_aarch64"
    assert "manylinux2014_aarch64" in platforms
    assert not [p for p in platforms if "_2_37_" in p]
