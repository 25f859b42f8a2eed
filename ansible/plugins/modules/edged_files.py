#!/usr/bin/python
"""Many small files in one round trip: unit files, drop-ins, the version script.

ansible.builtin.copy takes one round trip for each, which is most of a run's time on five thousand boards behind 4G.
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_files
short_description: Write and remove many small text files at once
version_added: 0.1.0
description:
  - Each file is replaced as a whole and is on the disk before the old one is gone. Owner is root.
options:
  files:
    description: Content by path.
    type: dict
    default: {}
  programs:
    description: Paths among I(files) that get mode 0755; the others have 0644.
    type: list
    elements: path
    default: []
  absent:
    description: Paths of files that must not be there. A unit file's unit is stopped and disabled first.
    type: list
    elements: path
    default: []
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Write a drop-in
  edged_files:
    files:
      /etc/systemd/journald.conf.d/edged.conf: "[Journal]\nStorage=volatile\n"
"""
RETURN = r"""
paths: {description: Files that were written or removed., type: list, elements: str, returned: always}
"""


UNITS = Path("/etc/systemd/system")


def differences(
    wanted: dict[str, tuple[str, int]], absent: list[str], seen: dict[str, tuple[str, int] | None]
) -> list[str]:
    """Paths to write or to remove, sorted; content and mode by path, None where there is no file. Pure."""
    write = [path for path, value in wanted.items() if seen.get(path) != value]
    return sorted([*write, *(path for path in absent if path not in wanted and seen.get(path) is not None)])


def units_to_end(changes: list[str], wanted: Container[str]) -> list[str]:
    """Names of the units whose files go. Pure."""
    return [Path(path).name for path in changes if path not in wanted and Path(path).parent == UNITS]


def look(path: str) -> tuple[str, int] | None:
    try:
        return Path(path).read_text(errors="surrogateescape"), Path(path).stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def write(path: Path, content: str, mode: int) -> None:
    path.parent.mkdir(0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    new.replace(path)


def systemctl(module: AnsibleModule, *words: str) -> None:
    code, out, err = module.run_command(["systemctl", *words])
    if code != 0:
        module.fail_json(msg=f"`systemctl {' '.join(words)}` failed: {(err or out).strip()}")


def main() -> None:
    spec: dict[str, Any] = {"files": {"type": "dict", "default": {}}}
    spec |= {name: {"type": "list", "elements": "path", "default": []} for name in ("programs", "absent")}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    files, absent = module.params["files"], module.params["absent"]
    wanted = {path: (text, 0o755 if path in module.params["programs"] else 0o644) for path, text in files.items()}
    done = Path("/")
    try:
        seen = {path: look(path) for path in (*wanted, *absent)}
        changes = differences(wanted, absent, seen)
        ending = [] if module.check_mode else units_to_end(changes, wanted)
        if ending:  # all at once: a socket must not start its service again
            systemctl(module, "disable", "--now", *ending)
        for done in map(Path, [] if module.check_mode else changes):
            if str(done) in wanted:
                write(done, *wanted[str(done)])
            else:
                done.unlink()
        if ending:
            systemctl(module, "daemon-reload")
        if changes and not module.check_mode:
            os.sync()  # the folders, too
    except OSError as e:
        module.fail_json(msg=f"{e.filename or done} can't be written: {e.strerror}; is the disk full or read-only?")
    diff = [
        {"before_header": p, "after_header": p, "before": (seen[p] or ("",))[0], "after": wanted.get(p, ("",))[0]}
        for p in changes
    ]
    module.exit_json(changed=bool(changes), paths=changes, diff=diff)


if __name__ == "__main__":
    main()
