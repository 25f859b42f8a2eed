#!/usr/bin/python
"""Installs a version of the daemon beside the others, and makes it the one that runs, on trial.

All that could leave a board without a daemon is in edged-version (systemd/edged_version.py), which works without us:
this module asks it, restarts the unit, and waits to see which version is left standing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_release
short_description: Install a version of the daemon, or make it the one that runs
version_added: 0.1.0
description:
  - I(phase=install) makes the version from a wheelhouse; nothing of what runs changes.
  - I(phase=run) switches to it, enables and (re)starts the units, and waits until the version is confirmed.
    If it never gets ready, the board goes back to the version before by itself, and this fails and says why.
options:
  phase: {description: What to do., type: str, choices: [install, run], required: true}
  version: {description: The version., type: str, required: true}
  wheelhouse: {description: "For I(phase=install): a .tar on the board, removed afterwards.", type: path}
  root: {description: Where the versions are., type: path, default: /opt/edged}
  unit: {description: The unit that runs it., type: str, default: edged.service}
  units: {description: Other units to enable and start., type: list, elements: str, default: []}
  restart: {description: Restart the unit even if the version is the same., type: bool, default: false}
  keep: {description: How many versions to keep., type: int, default: 2}
  again: {description: Try the version even if it has failed here before., type: bool, default: false}
  timeout: {description: Seconds to wait until a version is confirmed or gone., type: int, default: 600}
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Make it the one that runs
  edged_release:
    phase: run
    version: 0.1.0-5e07c6a153be
"""
RETURN = r"""
previous: {description: The version that ran before., type: str, returned: always}
"""
SYSTEM_PYTHON = "/usr/bin/python3"
WORDS = 8  # lines of the journal in a failure
PERIOD = 1.0  # seconds between two looks


# ---------------------------------------------------------------- deciding


def verdict(listed: dict[str, Any], active: str, version: str) -> str:
    """From `edged-version list --json` and the unit's ActiveState: good, failed, or waiting. Pure."""
    trial = listed["trial"]
    if trial and trial["version"] == version and listed["current"] == version:
        return "waiting"
    if listed["current"] != version:
        return "failed"
    return "good" if active == "active" else "waiting"


def failure(listed: dict[str, Any], version: str) -> str:
    """The sentence for a version that did not stay. Pure."""
    entries = {v["version"]: v for v in listed["versions"]}
    why = (entries.get(version, {}).get("failed") or {}).get("why") or "it was never confirmed"
    current = listed["current"]
    after = (
        f"the board is back on {current}" if current and current != version else "there was no version to go back to"
    )
    return f"version {version} did not come up and {after}: {why}"


def last_words(journal: list[str]) -> list[str]:
    """The lines before the process last ended, or the last ones of all. Pure."""
    ends = [n for n, line in enumerate(journal) if "Main process exited" in line or "timed out" in line]
    end = ends[-1] + 1 if ends else len(journal)
    return journal[max(0, end - WORDS) : end]


# ---------------------------------------------------------------- doing


class Release:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        self.program = Path(self.given["root"], "bin", "edged-version")

    def ask(self, *words: str) -> str:
        argv = [SYSTEM_PYTHON, str(self.program), "--root", self.given["root"], *words]
        code, out, err = self.module.run_command(argv, cwd="/")
        if code != 0:
            self.module.fail_json(msg=(err or out).strip() or f"{' '.join(argv)} ended with {code}")
        return str(out)

    def listed(self) -> dict[str, Any]:
        if not self.program.exists():  # a fresh board in check mode
            return {"current": None, "previous": None, "trial": None, "versions": []}
        found: dict[str, Any] = json.loads(self.ask("list", "--json"))
        return found

    def systemctl(self, *words: str) -> tuple[int, str]:
        code, out, err = self.module.run_command(["systemctl", *words])
        return int(code), f"{out}{err}".strip()

    def install(self) -> None:
        version = self.given["version"]
        if any(v["version"] == version and v["whole"] for v in self.listed()["versions"]):
            self.module.exit_json(changed=False)
        if not self.module.check_mode:
            made = self.ask("install", self.given["wheelhouse"]).split()[-1]
            Path(self.given["wheelhouse"]).unlink()
            if made != version:
                self.module.fail_json(msg=f"the wheelhouse holds version {made}, not {version}; build it again")
        self.module.exit_json(changed=True)

    def run(self) -> None:
        version, unit = self.given["version"], self.given["unit"]
        listed = self.listed()
        others = self.units_to_start()
        switching = listed["current"] != version
        stale = self.systemctl("show", "--property=NeedDaemonReload", "--value", unit)[1] == "yes"
        starting = switching or stale or self.given["restart"] or verdict(listed, self.active(unit), version) != "good"
        changed = starting or bool(others)
        if changed and not self.module.check_mode:
            self.systemctl("daemon-reload")
            if switching:
                self.ask("switch", *(["--again"] if self.given["again"] else []), version)
            for other in others:
                # Our own unit is started below, once: a start on trial takes a minute, and may fail three times.
                code, said = self.systemctl("enable", *([] if other == unit else ["--now"]), other)
                if code:
                    self.fail(f"{other} can't be {'enabled' if other == unit else 'started'}: {said}", other)
            if starting:
                self.systemctl("reset-failed", unit)
                self.systemctl("restart", "--no-block", unit)
                self.wait(version)
            self.ask("prune", "--keep", str(self.given["keep"]))
        self.module.exit_json(changed=changed, previous=listed["current"] or "")

    def units_to_start(self) -> list[str]:
        found = []
        for unit in (self.given["unit"], *self.given["units"]):
            enabled, _ = self.systemctl("is-enabled", "--quiet", unit)
            active = self.active(unit)
            if enabled != 0 or (active != "active" and unit != self.given["unit"]):
                found.append(unit)
        return found

    def active(self, unit: str) -> str:
        return self.systemctl("show", "--property=ActiveState", "--value", unit)[1]

    def wait(self, version: str) -> None:
        """Until the version is confirmed; fails once it is gone and the one before runs again, or after the timeout."""
        unit, deadline = self.given["unit"], time.monotonic() + self.given["timeout"]
        while True:
            listed, active = self.listed(), self.active(unit)
            found = verdict(listed, active, version)
            if found == "good":
                return
            late = time.monotonic() > deadline
            if late or (found == "failed" and active == "active" and not listed["trial"]):
                break
            time.sleep(PERIOD)
        sentence = failure(listed, version) if found == "failed" else f"{unit} did not get ready with version {version}"
        if active != "active":
            sentence += f"; after {self.given['timeout']} s it is {active}"
        self.fail(sentence, unit, rolled_back=found == "failed")

    def fail(self, sentence: str, unit: str, **told: Any) -> None:
        journal = self.module.run_command(["journalctl", "-u", unit, "-n", "100", "--no-pager", "-o", "cat"])[1]
        msg = f"{sentence.rstrip('.')}. Its last words are below, in `journal`"
        self.module.fail_json(msg=msg, journal=last_words(journal.splitlines()), **told)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "phase": {"type": "str", "choices": ["install", "run"], "required": True},
            "version": {"type": "str", "required": True},
            "wheelhouse": {"type": "path"},
            "root": {"type": "path", "default": "/opt/edged"},
            "unit": {"type": "str", "default": "edged.service"},
            "units": {"type": "list", "elements": "str", "default": []},
            "restart": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 2},
            "again": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        required_if=[("phase", "install", ("wheelhouse",))],
        supports_check_mode=True,
    )
    release = Release(module)
    if module.params["phase"] == "install":
        release.install()
    release.run()


if __name__ == "__main__":
    main()
