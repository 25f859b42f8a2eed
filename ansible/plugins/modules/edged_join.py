#!/usr/bin/python
"""Makes a board a node of a hub's fleet with a token that works once, and keeps its settings as they were asked for."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_join
short_description: Join a hub's fleet, and write the node's settings
version_added: 0.1.0
description:
  - A board that has joined is never joined again; its settings are written anew where they differ.
  - The token goes to the node's program by its stdin, where no list of processes shows it.
options:
  name: {description: The node's name., type: str, required: true}
  token: {description: From the hub; needed only by a board that has not joined., type: str, default: ""}
  settings:
    description: What node.toml says beside what the hub gave; without it the file is left as it is.
    type: dict
  version: {description: The installed version whose program does it., type: str, required: true}
  root: {description: Where the versions are., type: path, default: /opt/edged}
  state: {description: Where the node's state is., type: path, default: /var/lib/edged}
  config: {description: The file of settings., type: path, default: /etc/edged/node.toml}
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Join
  edged_join:
    name: pi-1
    token: "{{ node_join_token }}"
    version: 0.1.0-5e07c6a153be
  no_log: true
"""
RETURN = r"""
joined: {description: Whether it joined just now., type: bool, returned: always}
"""


def refusal(name: str, token: str, member: dict[str, Any] | None, checking: bool) -> str:
    """Why this can't be done, or "". Pure; `member` is what node.json says, where there is one."""
    if member and member.get("node") != name:
        return (
            f"this board is node {member.get('node')!r} of fleet {member.get('fleet')!r} and can't become {name!r}: set"
            f" node_name to {member.get('node')!r}, or take the node away first (-e state=absent)"
        )
    if not member and not token and not checking:
        return (
            "this board has joined no fleet and there is no token for it: set node_join_token (`edgehub token create`"
            " makes one), or node_hub to the inventory's name of the hub, so that the token is made there"
        )
    return ""


def membership(state: Path) -> dict[str, Any] | None:
    try:
        member = json.loads((state / "identity" / "node.json").read_text())
    except FileNotFoundError:
        return None
    return member if isinstance(member, dict) else {}


class Join:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        self.state, self.config = Path(self.given["state"]), Path(self.given["config"])

    def edgectl(self, command: str, *words: str, stdin: str = "") -> str:
        """What it says; settings go in by a file of ours that is gone afterwards."""
        python = Path(self.given["root"], "versions", self.given["version"], "bin", "python")
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir="/run") as file:
            json.dump(self.given["settings"] or {}, file)
            file.flush()
            places = ["--config", str(self.config), "--state-dir", str(self.state), "--settings", file.name]
            argv = [str(python), "-m", "cloudlink.cli", command, *words, *places]
            code, out, err = self.module.run_command(argv, data=stdin, cwd="/")
        if code != 0:
            self.module.fail_json(msg=f"{self.given['name']}: {err.strip() or out.strip()}")
        return str(out)

    def join(self) -> None:
        name, token = self.given["name"], self.given["token"]
        if self.module.check_mode:
            self.module.exit_json(changed=True, joined=False)
        self.edgectl("join", "-", "--name", name, stdin=f"{token}\n")
        self.module.exit_json(changed=True, joined=True)

    def configure(self) -> None:
        python = Path(self.given["root"], "versions", self.given["version"], "bin", "python")
        before = self.config.read_text() if self.config.exists() else ""
        if before and (self.given["settings"] is None or not python.exists()):
            self.module.exit_json(changed=self.given["settings"] is not None, joined=False)
        after = self.edgectl("configure", "--print")
        if before != after and not self.module.check_mode:
            self.edgectl("configure")
        diff = {"before": before, "after": after, "before_header": str(self.config), "after_header": str(self.config)}
        self.module.exit_json(changed=before != after, joined=False, diff=diff)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "token": {"type": "str", "default": "", "no_log": True},
            "settings": {"type": "dict"},
            "version": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/opt/edged"},
            "state": {"type": "path", "default": "/var/lib/edged"},
            "config": {"type": "path", "default": "/etc/edged/node.toml"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    joining = Join(module)
    try:
        member = membership(joining.state)
    except (OSError, ValueError) as e:
        module.fail_json(msg=f"{joining.state}/identity/node.json can't be read: {e}; remove the folder and join again")
    why = refusal(module.params["name"], module.params["token"], member, module.check_mode)
    if why:
        module.fail_json(msg=why)
    if member is None:
        joining.join()
    joining.configure()


if __name__ == "__main__":
    main()
