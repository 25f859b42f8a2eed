#!/usr/bin/python
"""Debian packages that a node needs: from the network, or from a bundle that the control machine brought.

ansible.builtin.apt wants python3-apt on the board, which a minimal Debian lacks, and can't check without it.
"""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_packages
short_description: Install Debian packages, with or without a network
version_added: 0.1.0
description:
  - Installs what is missing, without recommended packages, and writes down what it added, for edged_absent.
options:
  names: {description: The packages., type: list, elements: str, required: true}
  bundle: {description: "A .tar of tools/debs.py on the board, removed afterwards; without it apt fetches.", type: path}
  record: {description: File for the names that were added., type: path, default: /opt/edged/packages.json}
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Install from a bundle
  edged_packages:
    names: [crun, conmon]
    bundle: /var/tmp/edged-debs.tar
"""
RETURN = r"""
added: {description: Names that were not installed before., type: list, elements: str, returned: always}
"""
APT = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C.UTF-8"}


def installed(status: str) -> dict[str, str]:
    """Versions by name, of what dpkg's status file calls installed. Pure."""
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "")
    return found


def to_install(files: list[str], have: set[str]) -> list[str]:
    """Of a bundle's files (NAME_VERSION_ARCH.deb) those whose package is not there. Pure."""
    return sorted(f for f in files if f.endswith(".deb") and f.split("_")[0] not in have)


def status() -> dict[str, str]:
    return installed(Path("/var/lib/dpkg/status").read_text(errors="replace"))


def apt(module: AnsibleModule, *words: str, hint: str) -> None:
    code, out, err = module.run_command([*APT, *words], environ_update=QUIET)
    if code != 0:
        said = (err.strip() or out.strip())[-2000:]
        module.fail_json(msg=f"`apt-get {words[0]}` failed: {said}\n{hint}")


def from_bundle(module: AnsibleModule, bundle: Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder, tarfile.open(bundle) as tar:
        for member in tar:
            if member.isfile() and re.fullmatch(r"[A-Za-z0-9][^/]*\.deb", member.name):
                tar.extract(member, folder, set_attrs=False)
        files = to_install([p.name for p in Path(folder).iterdir()], set(status()))
        lacking = [n for n in names if n not in status() and not any(f.startswith(f"{n}_") for f in files)]
        if lacking:
            module.fail_json(msg=f"the bundle has no {', '.join(lacking)}; remove its folder on the control machine")
        hint = "The bundle does not fit this board's packages: upgrade the board, or give it a network for once."
        apt(module, "install", *(f"{folder}/{f}" for f in files), hint=hint)
    bundle.unlink()


def from_network(module: AnsibleModule, names: list[str]) -> None:
    hint = "If this board has no internet, say node_offline=true: the packages then come from the control machine."
    apt(module, "update", hint=hint)
    apt(module, "install", *names, hint=hint)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "bundle": {"type": "path"},
            "record": {"type": "path", "default": "/opt/edged/packages.json"},
        },
        supports_check_mode=True,
    )
    names, record = module.params["names"], Path(module.params["record"])
    before = status()
    missing = [n for n in names if n not in before]
    if not missing or module.check_mode:
        module.exit_json(changed=bool(missing), added=missing)
    if module.params["bundle"]:
        from_bundle(module, Path(module.params["bundle"]), missing)
    else:
        from_network(module, missing)
    added = sorted(set(status()) - set(before))
    known = json.loads(record.read_text()) if record.exists() else []
    record.parent.mkdir(0o755, parents=True, exist_ok=True)
    record.write_text(json.dumps(sorted({*known, *added}), indent=1) + "\n")
    module.exit_json(changed=True, added=added)


if __name__ == "__main__":
    main()
