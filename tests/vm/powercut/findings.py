"""What must be true after the boot, hub and network off. Pure: what the board said against what is known at home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from edged.decide.pulls import BACKOFF, ERR_PULL
from edged.model import Desired
from tests.vm.powercut.home import Seen

WAITING = {ERR_PULL, BACKOFF}


class Expected(NamedTuple):
    """:ivar seen: what the witness knew when the power went; `documents` may be of a moment later.
    :ivar secrets: generation -> the version of the secret that this document carries ("" = it has none).
    :ivar layers: diff_id -> contents (Home.layers).
    """

    seen: Seen
    documents: Mapping[int, Desired]
    secrets: Mapping[int, str]
    layers: Mapping[str, Mapping[str, str]]


def wrong(found: dict[str, Any], expected: Expected) -> list[str]:
    """Sentences; none if all is well."""
    return [
        *_document(found, expected),
        *_pods(found, expected),
        *_images(found["images"], expected.layers),
        *_remains(found),
        *_software(found["versions"]),
    ]


def _document(found: dict[str, Any], expected: Expected) -> Iterator[str]:
    generation, acknowledged = found["generation"], expected.seen.acknowledged
    if generation < acknowledged:
        yield f"generation {acknowledged} was acknowledged, but after the boot it is {generation}"
    if len(found["damaged"]) > 1:
        yield f"both slots are damaged: {found['damaged']}"
    document = expected.documents.get(generation)
    if document is None:
        yield f"generation {generation} was never published; there are {sorted(expected.documents)}"
    elif {p.uid for p in document.pods} != set(found["wanted"]):
        yield f"generation {generation} has other pods on the board than at home"


def _pods(found: dict[str, Any], expected: Expected) -> Iterator[str]:
    if found["snapshot"] is None:
        yield "the daemon does not answer"
        return
    told = {p["uid"]: p for p in found["snapshot"]["status"]["pods"]}
    if set(told) != set(found["wanted"]):
        yield f"it tells of pods {sorted(told)} where {sorted(found['wanted'])} are wanted"
    for uid, pod in told.items():
        if pod["phase"] == "Running" and pod["ready"]:
            continue
        reasons = {c["reason"] for c in pod["containers"]} - {""}
        if uid in found["must"]:
            yield f"pod {pod['name']} ran before and doesn't now: {pod['phase']} {sorted(reasons)}"
        elif not reasons or not reasons <= WAITING:
            yield f"pod {pod['name']} neither runs nor waits for its image: {pod['phase']} {sorted(reasons)}"
    document = expected.documents.get(found["generation"])
    pods = {p.uid: p for p in document.pods} if document else {}
    for running in found["containers"]:
        pod = pods.get(running["pod"])
        if pod is None:
            yield f"a container of {running['pod']} runs, which nobody wants"
            continue
        revision = next((e.value for e in pod.containers[0].env if e.name == "REVISION"), "")
        if running["revision"] != revision:
            yield f"{pod.title} runs revision {running['revision']!r} of {revision!r}"
        yield from _secret(pod.title, set(running["secret"].values()), expected.secrets[found["generation"]])
    pairs = [(c["pod"], c["name"]) for c in found["containers"]]
    if len(set(pairs)) != len(pairs):
        yield f"something runs twice: {sorted(pairs)}"


def _secret(title: str, versions: set[str], right: str) -> Iterator[str]:
    if len(versions) > 1:
        yield f"{title} sees a mix of secrets: {sorted(versions)}"
    elif versions and versions != {right}:
        yield f"{title} sees secret {versions} where its document has {right!r}"


def _images(found: dict[str, Any], layers: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name in ("damage", "wrong_blobs", "strays"):
        if found[name]:
            yield f"image store, {name.replace('_', ' ')}: {found[name][:5]}"
    for diff_id, is_there in found["layers"].items():
        right = layers.get(diff_id)
        if right is None:
            yield f"layer {diff_id} is of no image that was ever pushed"
        elif right != is_there:
            differing = [p for p in right.keys() | is_there.keys() if right.get(p) != is_there.get(p)]
            yield f"layer {diff_id} is not what it should be: {sorted(differing)[:5]} of {len(differing)}"


def _remains(found: dict[str, Any]) -> Iterator[str]:
    wanted, kernel = set(found["wanted"]), found["kernel"]
    if kernel["errors"]:
        yield f"the kernel complains: {kernel['errors'][:3]}"
    if kernel["failed"]:
        yield f"units have failed: {kernel['failed']}"
    if strangers := set(kernel["cgroups"]) - wanted - {"images"}:
        yield f"cgroups of nobody: {sorted(strangers)}"
    if kernel["conmons"] != len(found["containers"]):
        yield f"{kernel['conmons']} monitors for {len(found['containers'])} containers"
    if found["leftovers"]:
        yield f"folders of pods that nobody wants: {found['leftovers'][:5]}"
    if half := [name for name in found["files"] if name.startswith(".") or name.endswith((".new", ".tmp"))]:
        yield f"half-written files in the state folder: {half}"


def _software(found: dict[str, Any]) -> Iterator[str]:
    current, whole = found["current"], [v["version"] for v in found["versions"] if v["whole"]]
    running = [v["version"] for v in found["versions"] if v["running"]]
    if current not in whole:
        yield f"the current version is {current!r}, which is none of {whole}"
    if running != [current]:
        yield f"versions {running} run where {current} is current"
    if found["damaged"]:
        yield f"files of versions are not what pip wrote: {found['damaged'][:5]}"


def unusual(found: dict[str, Any], expected: Expected) -> str:
    """What is worth a word in the table, though nothing is wrong."""
    words = []
    if found["generation"] > expected.seen.acknowledged:
        words.append(f"document {found['generation']} saved, {expected.seen.acknowledged} acknowledged")
    if found["damaged"]:
        words.append("a slot was half written")
    if found["images"]["strays_before"]:
        words.append(f"{len(found['images']['strays_before'])} unfinished in the image store, cleaned")
    if found["images"]["partial"]:
        words.append("a layer half fetched")
    software = found["versions"]
    if unfinished := [v["version"] for v in software["versions"] if not v["whole"] and not v["failed"]]:
        words.append(f"{len(unfinished)} version half installed")
    if software["trial"]:
        words.append(f"a version on trial, start {software['trial']['attempts']}")
    waiting = len(found["wanted"]) - len({c["pod"] for c in found["containers"]})
    if waiting:
        words.append(f"{waiting} pods wait for an image that was not through")
    return "; ".join(words) or "nothing"
