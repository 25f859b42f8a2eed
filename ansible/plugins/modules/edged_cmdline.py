#!/usr/bin/python
"""Turns the memory cgroup on in a Raspberry Pi's cmdline.txt: one line, on which the last word counts."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_cmdline
short_description: Turn the memory cgroup on in cmdline.txt
version_added: 0.1.0
description:
  - Adds C(cgroup_enable=memory) and C(cgroup_memory=1) to the one line that the firmware reads, and takes
    C(cgroup_disable=memory) out of it. What the device tree says stands before this line, so this line wins.
  - The file is replaced as a whole and is on the disk before the old one is gone; the first original is kept beside it.
options:
  path: {description: The file., type: path, required: true}
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Turn the memory cgroup on
  edged_cmdline:
    path: /boot/firmware/cmdline.txt
"""
RETURN = r"""
line: {description: The line as it is now., type: str, returned: always}
"""

ENABLE = "cgroup_enable=memory"
OLD_ENABLE = "cgroup_memory=1"  # for kernels before 4.14
SAVED = ".before-edged"


def with_memory_cgroup(text: str) -> str:
    """The file's text with the memory cgroup on: pure, and the same again for its own result.

    The firmware reads the first line and ignores the others, which are kept as they are. Each of the line's other
    words is kept, in its order.
    """
    first, newline, rest = text.partition("\n")
    words = []
    for word in first.split():
        key, _, value = word.partition("=")
        if key == "cgroup_disable" and "memory" in value.split(","):
            left = [v for v in value.split(",") if v != "memory"]
            words += [f"cgroup_disable={','.join(left)}"] if left else []
        else:
            words.append(word)
    words += [word for word in (ENABLE, OLD_ENABLE) if word not in words and not _enables(words, word)]
    line = " ".join(words)
    return text if line == " ".join(first.split()) else line + (newline or "\n") + rest


def _enables(words: list[str], wanted: str) -> bool:
    """Whether a list such as cgroup_enable=cpuset,memory says it already."""
    return wanted == ENABLE and any(w.startswith("cgroup_enable=") and "memory" in w[14:].split(",") for w in words)


def replace(path: Path, text: str) -> None:
    """On the disk before it takes the old one's place; FAT has no other way to be safe from a power cut."""
    saved = path.with_name(path.name + SAVED)
    for target, content in ((saved, path.read_text()), (path, text)):
        if target == saved and saved.exists():
            continue
        new = target.with_name(f".{target.name}.new")
        with new.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def main() -> None:
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)
    path = Path(module.params["path"])
    try:
        before = path.read_text()
        after = with_memory_cgroup(before)
        if not before.split("\n", 1)[0].strip():
            module.fail_json(
                msg=f"{path} begins with an empty line: the firmware would find no root=; write it by hand"
            )
        if after != before and not module.check_mode:
            replace(path, after)
    except (OSError, UnicodeDecodeError) as e:
        module.fail_json(msg=f"{path} can't be changed: {e}; is the boot partition mounted, and writable?")
    diff = {"before": before, "after": after, "before_header": str(path), "after_header": str(path)}
    module.exit_json(changed=after != before, line=after.split("\n", 1)[0], diff=diff)


if __name__ == "__main__":
    main()
