#!/usr/bin/python
"""Takes a node off a board: its pods, its units, its versions, and, unless they shall stay, its settings and data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_absent
short_description: Take a node off a board
version_added: 0.1.0
description:
  - Works from any state, also from one that was left half done, and does nothing where nothing is left.
options:
  units: {description: Units to stop and forget., type: list, elements: str, required: true}
  files: {description: Other files to remove., type: list, elements: path, default: []}
  root: {description: Where the versions are., type: path, default: /opt/edged}
  state: {description: Where the node's state is., type: path, default: /var/lib/edged}
  settings: {description: The folder of its settings., type: path, default: /etc/edged}
  keep_data: {description: Keep state and settings., type: bool, default: false}
  packages: {description: Remove the packages that edged_packages has added., type: bool, default: true}
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Take the node away
  edged_absent:
    units: [edged.service, edged-pods.service]
"""
RETURN = r"""
done: {description: What was removed., type: list, elements: str, returned: always}
"""
UNITS = Path("/etc/systemd/system")


class Removal:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        self.root = Path(self.given["root"])
        self.settings = Path(self.given["settings"])
        self.done: list[str] = []

    def call(self, *argv: str, needed: bool = True) -> None:
        code, out, err = self.module.run_command(list(argv), environ_update={"DEBIAN_FRONTEND": "noninteractive"})
        if code != 0 and needed:
            self.module.fail_json(msg=f"`{' '.join(argv)}` failed: {(err or out).strip()[-2000:]}", done=self.done)

    def everything(self) -> None:
        """Pods first, while there is a program that knows how; packages before the record of them."""
        folders = [Path("/run/edged"), self.root]
        folders += [] if self.given["keep_data"] else [self.settings, Path(self.given["state"])]
        units = [u for u in self.given["units"] if (UNITS / u).exists()]
        files = [f for f in map(Path, self.given["files"]) if f.exists()]
        files += [folder for unit in self.given["units"] if (folder := UNITS / f"{unit}.d").is_dir()]
        packages = self.packages()
        there = [f for f in folders if f.exists()]
        self.done = [*map(str, (*units, *files, *there)), *packages]
        if self.module.check_mode or not self.done:
            return
        for unit in units:
            self.call("systemctl", "disable", "--now", unit, needed=False)
        python, config = self.root / "current/bin/python", self.settings / "node.toml"
        if python.exists() and config.exists():
            self.call(str(python), "-m", "edged", "teardown", "--yes", "--config", str(config))
        for unit in units:
            (UNITS / unit).unlink()
        for file in files:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        self.call("systemctl", "daemon-reload")
        self.call("systemctl", "reset-failed", *units, needed=False)
        if packages:
            self.call("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "purge", *packages)
        for folder in there:
            self.unmount(folder)
            shutil.rmtree(folder)

    def unmount(self, folder: Path) -> None:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed([m for m in mounts if Path(m) == folder or folder in Path(m).parents]):
            self.call("umount", mount)

    def packages(self) -> list[str]:
        record = self.root / "packages.json"
        if not self.given["packages"] or not record.exists():
            return []
        names: list[str] = json.loads(record.read_text())
        others = dragged(self.simulated(names), names)
        if others:
            text = f"{', '.join(others)} need packages that came with the node, so those stay: {', '.join(names)}"
            self.module.warn(text)
            return []
        return names

    def simulated(self, names: list[str]) -> str:
        code, out, err = self.module.run_command(
            ["apt-get", "-q", "-s", "purge", *names], environ_update={"LC_ALL": "C"}
        )
        if code != 0:
            self.module.fail_json(msg=f"apt-get can't say what removing the packages would do: {(err or out)[-2000:]}")
        return str(out)


def dragged(simulation: str, names: list[str]) -> list[str]:
    """Packages beside `names` that `apt-get -s purge` would remove. Pure."""
    removed = re.findall(r"^(?:Remv|Purg) (\S+)", simulation, re.MULTILINE)
    return sorted({name.partition(":")[0] for name in removed} - set(names))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "required": True},
            "files": {"type": "list", "elements": "path", "default": []},
            "root": {"type": "path", "default": "/opt/edged"},
            "state": {"type": "path", "default": "/var/lib/edged"},
            "settings": {"type": "path", "default": "/etc/edged"},
            "keep_data": {"type": "bool", "default": False},
            "packages": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    removal = Removal(module)
    try:
        removal.everything()
    except (OSError, ValueError) as e:
        module.fail_json(msg=f"could not remove everything: {e}; run it again", done=removal.done)
    module.exit_json(changed=bool(removal.done), done=removal.done)


if __name__ == "__main__":
    main()
