"""What annotations of a Deployment ask of its rollouts, beyond Kubernetes' own fields. Pure.

edged.dev/rollback: "on" | "off"            undo a revision that fails; on where nothing is said
edged.dev/waves: "1, 10%, 50%, 100%"        how many pods may have a new revision, wave by wave; all of them at last
edged.dev/wave-hold: "10m" | manual         how long a wave has to go well before the next; manual: until confirmed
edged.dev/proven-after: "30s"               how long all pods of a revision are ready before it is a good one
edged.dev/confirm: "<revision>/<wave>"      that wave of that revision (and those before) may end; `edgectl confirm`
                                            writes it. "<revision>" alone confirms all of its waves
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cloudlink.kube.annotations import (
    CONFIRM,
    OF_DEPLOYMENTS,
    OURS,
    PROVEN_AFTER,
    ROLLBACK,
    ROLLOUT_STATE,
    WAVE_HOLD,
    WAVES,
)
from cloudlink.kube.findings import Findings
from cloudlink.kube.learned import REQUESTS
from cloudlink.kube.meta import IntOrString

T = TypeVar("T")

MAX_WAVES = 20
LONGEST_HOLD = 30 * 86400.0  # seconds; who wants to wait for longer confirms by hand
# Seconds for which all pods of a revision are ready before it counts as good. A program that ends after some seconds
# is ready in between; for one that crashes later than this `edged.dev/proven-after` says more.
PROVEN_WHEN = 30.0
LONGEST_PROOF = 7 * 86400.0
_SHARE = re.compile(r"(\d{1,9})(%?)", re.ASCII)
_HOLD = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)
_CONFIRM = re.compile(r"(\d{1,9})(?:/(\d{1,3}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """:ivar waves: how many pods may have the new revision in each wave, the last one always all; () = no waves.
    :ivar hold: seconds that a wave lasts once its pods are available; None = until confirmed.
    :ivar proven_after: seconds for which all pods of a revision are ready until it counts as good.
    :ivar confirmed: revision, and the last wave that is confirmed (None = all of them).
    """

    rollback: bool = True
    waves: tuple[IntOrString, ...] = ()
    hold: float | None = 0.0
    proven_after: float = PROVEN_WHEN
    confirmed: tuple[int, int | None] | None = None

    def confirms(self, revision: int, wave: int) -> bool:
        if self.confirmed is None or self.confirmed[0] != revision:
            return False
        return self.confirmed[1] is None or wave <= self.confirmed[1]

    def sizes(self, replicas: int) -> tuple[int, ...]:
        """Pods that may have the new revision, wave by wave; percentages rounded up, no more than there are."""
        found: list[int] = []
        for share in self.waves:
            least = found[-1] if found else 0
            found.append(max(min(pods_of(share, replicas), replicas), least))
        return tuple(found)


def pods_of(share: IntOrString, replicas: int) -> int:
    """The number of a count or of a percentage, rounded up; may be more than there are."""
    return share if isinstance(share, int) else math.ceil(replicas * int(share.removesuffix("%")) / 100)


def policy_of(annotations: Mapping[str, str]) -> RolloutPolicy:
    """What isn't understood counts as not said: it was refused when it was written."""
    at_once: float | None = 0.0
    return RolloutPolicy(
        rollback=_or(_switch, annotations.get(ROLLBACK), True),
        waves=_or(_waves, annotations.get(WAVES), ()),
        hold=_or(_hold, annotations.get(WAVE_HOLD), at_once),
        proven_after=_or(_proof, annotations.get(PROVEN_AFTER), PROVEN_WHEN),
        confirmed=_or(_confirmation, annotations.get(CONFIRM), None),
    )


def _or(read: Callable[[str], T], text: str | None, otherwise: T) -> T:
    try:
        return otherwise if text is None else read(text)
    except ValueError:
        return otherwise


# ---------------------------------------------------------------- reading; ValueError carries the sentence


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError('must be "on" or "off", in quotes: YAML takes a bare off for false (e.g. "off")')
    return text == "on"


def _waves(text: str) -> tuple[IntOrString, ...]:
    example = "(e.g. '1, 10%, 50%, 100%')"
    words = [word.strip() for word in text.split(",")]
    if len(words) > MAX_WAVES:
        raise ValueError(f"at most {MAX_WAVES} waves {example}")
    waves: list[IntOrString] = []
    for word in words:
        found = _SHARE.fullmatch(word)
        if found is None:
            raise ValueError(f'"{word}" is neither a number of pods nor a percentage {example}')
        number = int(found[1])
        if not number or (found[2] and number > 100):
            limits = "from 1% to 100%" if found[2] else "at least 1 pod"
            raise ValueError(f'"{word}": each wave has {limits} {example}')
        share: IntOrString = word if found[2] else number
        same = [_number(w) for w in waves if isinstance(w, str) == isinstance(share, str)]
        if same and number <= same[-1]:
            raise ValueError(f'"{word}" is not more than the wave before; each has those of the one before {example}')
        waves.append(share)
    return tuple(waves) if waves[-1] == "100%" else (*waves, "100%")


def _number(share: IntOrString) -> int:
    return share if isinstance(share, int) else int(share.removesuffix("%"))


def _hold(text: str) -> float | None:
    if text == "manual":
        return None
    total = _time(text)
    if total is None:
        raise ValueError("must be a time (e.g. '90s', '10m', '1h30m') or 'manual', which waits for a confirmation")
    if total > LONGEST_HOLD:
        raise ValueError(f"at most {LONGEST_HOLD / 86400:.0f}d; write 'manual' to wait until somebody confirms")
    return total


def _proof(text: str) -> float:
    total = _time(text)
    if total is None:
        raise ValueError("must be a time (e.g. '0s', '90s', '10m')")
    if total > LONGEST_PROOF:
        raise ValueError(f"at most {LONGEST_PROOF / 86400:.0f}d (e.g. '10m')")
    return total


def _time(text: str) -> float | None:
    """Seconds; None where it is no time."""
    found = _HOLD.fullmatch(text)
    if not text or found is None:
        return None
    days, hours, minutes, seconds = (int(n or 0) for n in found.groups())
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def _confirmation(text: str) -> tuple[int, int | None]:
    found = _CONFIRM.fullmatch(text)
    if found is None:
        raise ValueError("must be <revision>/<wave> (e.g. '3/1'), or <revision> for all of its waves (e.g. '3')")
    return int(found[1]), int(found[2]) if found[2] else None


# ---------------------------------------------------------------- refusing

_READERS: Mapping[str, Callable[[str], object]] = {
    ROLLBACK: _switch,
    WAVES: _waves,
    WAVE_HOLD: _hold,
    PROVEN_AFTER: _proof,
    CONFIRM: _confirmation,
}


def check_rollout_annotations(annotations: Mapping[str, str], strategy: str, path: str, found: Findings) -> None:
    """What is wrong with those of a Deployment that are ours; `path` is that of the annotations."""
    for key, value in annotations.items():
        here = f"{path}[{key}]"
        if (read := _READERS.get(key)) is not None:
            try:
                read(value)
            except ValueError as e:
                found.invalid(here, value, str(e))
        elif key.startswith(OURS) and key not in ROLLOUT_STATE:
            close = difflib.get_close_matches(key, OF_DEPLOYMENTS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OF_DEPLOYMENTS)}"
            if key.startswith(REQUESTS):
                hint = "it is one of pods: write it at spec.template.metadata.annotations"
            found.invalid(here, value, f"no such annotation of a Deployment; {hint}")
    if WAVES in annotations and strategy == "Recreate":
        why = "may not be specified when strategy `type` is 'Recreate': all pods are replaced at once"
        found.forbidden(f"{path}[{WAVES}]", why)
    if WAVE_HOLD in annotations and WAVES not in annotations:
        found.required(f"{path}[{WAVES}]", f"there is a {WAVE_HOLD} and no wave to hold (e.g. '1, 10%, 100%')")


def more_than_there_are(annotations: Mapping[str, str], replicas: int, path: str) -> list[str]:
    """A wave of more pods than the Deployment has is no error, as scaling must not be refused for it, but news."""
    asked = next((w for w in policy_of(annotations).waves if isinstance(w, int) and w > replicas), None)
    if asked is None:
        return []
    return [f"{path}[{WAVES}]: a wave of {asked} pods, and there are {replicas}: it takes all of them at once"]
