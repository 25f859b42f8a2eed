"""kubectl of every version that this machine has, as a person uses it: what was typed, and what came back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds for what takes one or two
OLDEST, NEWEST = "1.27", "1.33"


def versions() -> dict[str, str]:
    """Version -> program: "kubectl.1.NN" beside the kubectl on PATH (as Google's packages have them); the one on PATH
    as "PATH" where there are none. Empty where there is no kubectl at all."""
    found = shutil.which("kubectl")
    if found is None:
        return {}
    beside = {p.name.removeprefix("kubectl."): str(p) for p in sorted(Path(found).resolve().parent.glob("kubectl.1.*"))}
    return beside or {"PATH": found}


def programs() -> list[str]:
    """All of them; "kubectl" where there is none, for tests that are then skipped with their reason."""
    return [*versions().values()] or ["kubectl"]


def oldest_and_newest() -> list[str]:
    found = versions()
    return [found[v] for v in (OLDEST, NEWEST) if v in found] or programs()


class Kubectl:
    """:ivar transcript: each command and what it printed, in order; also in $EDGED_TRANSCRIPTS/<name>.txt, if set."""

    def __init__(self, program: str, kubeconfig: Path, namespace: str, name: str = "") -> None:
        self.program, self.kubeconfig, self.namespace = program, kubeconfig, namespace
        self.transcript: list[str] = []
        self._name = name

    def _argv(self, words: tuple[str, ...]) -> list[str]:
        return [self.program, "--kubeconfig", os.fspath(self.kubeconfig), "-n", self.namespace, *words]

    def run(self, *words: str, stdin: object = None, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit code, and what it wrote to both."""
        text = stdin if isinstance(stdin, str) else "" if stdin is None else json.dumps(stdin)
        done = subprocess.run(
            self._argv(words),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **(env or {})},
        )
        self._note(f"$ kubectl {' '.join(words)}\n{done.stdout}")
        return done.returncode, done.stdout

    def ok(self, *words: str, stdin: object = None, env: Mapping[str, str] | None = None) -> str:
        code, said = self.run(*words, stdin=stdin, env=env)
        assert code == 0, f"kubectl {' '.join(words)}: exit code {code}: {said}"
        return said

    def refused(self, *words: str, stdin: object = None, code: int = 1) -> str:
        got, said = self.run(*words, stdin=stdin)
        assert got == code, f"kubectl {' '.join(words)}: exit code {got}, not {code}: {said}"
        return said

    def json(self, *words: str) -> Any:
        done = subprocess.run(
            self._argv((*words, "-o", "json")), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return json.loads(done.stdout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Runs until the caller ends it; its output on stdout."""
        return subprocess.Popen(self._argv(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def until(self, what: str, true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"waited for {what}, in vain:\n{self.ok('get', 'all')}"
            time.sleep(0.05)

    def _note(self, text: str) -> None:
        self.transcript.append(text)
        if folder := os.environ.get("EDGED_TRANSCRIPTS"):
            with (Path(folder) / f"{self._name or self.namespace}.txt").open("a") as file:
                file.write(text)
