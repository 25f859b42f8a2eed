// The table of pods: one row each, opened on demand to show its containers.

import { byId, el, meter, setAttr, setChildren, setClass, setText } from "./dom.js";
import { bytes, bytesOf, cpu, plural, showTime } from "./format.js";
import { ContainerBox } from "./container.js";

const MANY = 8; // pods from which a filter is worth its place
const WINDOW = 1.5; // seconds over which CPU is measured at least; shorter ones jump about

const rows = new Map(); // by uid
const samples = new Map(); // container id -> {at, seconds, cores}
let only = "all";
let wanted = "";
let latest = null;

byId("filter").addEventListener("input", (event) => {
  wanted = event.target.value.trim().toLowerCase();
  draw();
});

/** Show the snapshot; returns sentences about pods whose state has changed since the last one. */
export function showPods(snapshot) {
  latest = snapshot;
  measure(snapshot);
  const pods = snapshot.status.pods ?? [];
  const changes = [];
  const alive = new Set(pods.map((pod) => pod.uid));
  for (const [uid, row] of rows) {
    if (!alive.has(uid)) {
      changes.push(`${row.name} is gone`);
      row.close();
      rows.delete(uid);
    }
  }
  const first = rows.size === 0 && changes.length === 0;
  for (const pod of pods) {
    const state = stateOf(pod);
    let row = rows.get(pod.uid);
    if (!row) {
      row = new Row(pod);
      rows.set(pod.uid, row);
    }
    if (row.label !== state.label && !first) changes.push(`${pod.name} is ${state.label}`);
    row.show(pod, state, snapshot);
  }
  draw();
  return changes;
}

function draw() {
  const pods = latest?.status.pods ?? [];
  const counts = { all: pods.length, attention: 0 };
  for (const pod of pods) if (rows.get(pod.uid).kind !== "good") counts.attention += 1;
  if (counts.attention === 0) only = "all";
  drawChips(counts);
  byId("filter").hidden = pods.length < MANY;
  const shown = pods
    .filter((pod) => only === "all" || rows.get(pod.uid).kind !== "good")
    .filter((pod) => !wanted || `${pod.namespace}/${pod.name}`.toLowerCase().includes(wanted))
    .sort((a, b) => rank(a) - rank(b) || compare(a.namespace, b.namespace) || compare(a.name, b.name));
  setChildren(byId("rows"), shown.flatMap((pod) => rows.get(pod.uid).nodes()));
  const empty = byId("no-pods");
  empty.hidden = shown.length > 0;
  setText(empty, pods.length ? "No pod has that in its name." : "Nothing runs here yet. Apply a manifest at the hub, and it appears within a second.");
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const rank = (pod) => ({ bad: 0, warn: 1 })[rows.get(pod.uid).kind] ?? 2;

function drawChips(counts) {
  const all = plural(counts.all, "pod");
  setText(byId("count"), counts.attention || !counts.all ? "" : counts.all === 1 ? "1, as wanted" : `${counts.all}, all as wanted`);
  setChildren(byId("chips"), counts.attention ? [chip("all", all, ""), chip("attention", `${counts.attention} not as wanted`, "warn")] : []);
}

const chipNodes = new Map();

function chip(name, text, kind) {
  let node = chipNodes.get(name);
  if (!node) {
    node = el("button", {
      type: "button",
      onclick: () => {
        only = name;
        draw();
      },
    });
    chipNodes.set(name, node);
  }
  setClass(node, `chip ${kind}`.trim());
  setText(node, text);
  setAttr(node, "aria-pressed", String(only === name));
  return node;
}

/** A pod's state in a word, a colour and a sentence: the worst that one of its containers says, as kubectl does. */
export function stateOf(pod) {
  const containers = pod.containers ?? [];
  const waiting = containers.find((c) => c.state === "waiting" && c.reason);
  const ended = containers.find((c) => c.state === "terminated" && c.exit_code);
  const message = (c) => c?.message || pod.message || "";
  if (pod.phase === "Failed") return { label: pod.reason || ended?.reason || "Failed", kind: "bad", sentence: message(ended) };
  if (pod.phase === "Succeeded") return { label: "Succeeded", kind: "good", sentence: pod.message ?? "" };
  if (pod.phase === "Unknown") return { label: "Unknown", kind: "warn", sentence: pod.message ?? "" };
  const preparing = pod.initialized === false ? initState(pod) : null;
  if (preparing) return preparing;
  if (waiting) {
    const harmless = ["ContainerCreating", "PodInitializing"].includes(waiting.reason);
    return { label: waiting.reason, kind: harmless ? "warn" : "bad", sentence: [lastEnd(waiting), message(waiting)].filter(Boolean).join("; ") };
  }
  if (ended) return { label: ended.reason || "Ended", kind: "bad", sentence: message(ended) || `${ended.name} ended with ${ended.exit_code}` };
  if (pod.phase === "Pending") return { label: pod.reason || "Pending", kind: "warn", sentence: pod.message ?? "" };
  if (!pod.ready) return { label: "Not ready", kind: "warn", sentence: pod.message || message(containers.find((c) => !c.ready)) };
  return { label: "Running", kind: "good", sentence: pod.message ?? "" };
}

/** Init containers as kubectl tells of them: "Init:1/3" while all goes well, "Init:<reason>" where one doesn't. */
function initState(pod) {
  const init = pod.init ?? [];
  const at = init.findIndex((c, i) => !isPast(c, init[i + 1]));
  if (at < 0) return null;
  const now = init[at];
  const stuck = now.state === "waiting" && now.reason && !["PodInitializing", "ContainerCreating"].includes(now.reason);
  const failed = now.state === "terminated" && now.exit_code;
  const message = now.message || pod.message || "";
  if (stuck || failed) return { label: `Init:${now.reason || "Error"}`, kind: "bad", sentence: [now.name, message].filter(Boolean).join(": ") };
  return { label: `Init:${at}/${init.length}`, kind: "warn", sentence: message };
}

/** Ended well, or a sidecar that runs beside the one after it. */
function isPast(container, next) {
  if (container.state === "terminated") return !container.exit_code;
  return container.state === "running" && next !== undefined && next.state !== "waiting";
}

/** Init containers first, in the order in which they run; an ended one uses nothing and takes part in no count. */
const allOf = (pod) => [...(pod.init ?? []), ...(pod.containers ?? [])];

/** "last end: OOMKilled (137)", for a container that has run before and whose message doesn't say how it ended. */
function lastEnd(container) {
  const code = container.last_exit_code ?? null;
  if ((!container.last_reason && code === null) || /exit code|killed|stopped/i.test(container.message ?? "")) return "";
  return `last end: ${container.last_reason || "exit"}${code === null ? "" : ` (${code})`}`;
}

/** Turn growing CPU seconds into cores, over a window long enough to be steady. */
function measure(snapshot) {
  const usage = snapshot.usage ?? {};
  for (const id of [...samples.keys()]) if (!(id in usage)) samples.delete(id);
  for (const [id, use] of Object.entries(usage)) {
    const seconds = use.cpu_seconds ?? 0;
    const last = samples.get(id);
    if (!last || seconds < last.seconds || snapshot.wall < last.at) {
      samples.set(id, { at: snapshot.wall, seconds, cores: null });
    } else if (snapshot.wall - last.at >= WINDOW) {
      samples.set(id, { at: snapshot.wall, seconds, cores: (seconds - last.seconds) / (snapshot.wall - last.at) });
    }
  }
}

export const coresOf = (id) => samples.get(id)?.cores ?? null;

/** Memory and CPU of a pod: sums over its containers; a limit only where each has one. */
function totals(pod, usage) {
  let memory = 0;
  let limit = 0;
  let cores = null;
  let running = false;
  for (const container of allOf(pod)) {
    const use = usage[container.container_id];
    if (!use) continue;
    running = true;
    memory += use.memory ?? 0;
    limit += use.memory_limit ?? Infinity;
    const share = coresOf(container.container_id);
    if (share !== null) cores = (cores ?? 0) + share;
  }
  return { running, memory, limit: running ? limit : Infinity, cores };
}

class Row {
  constructor(pod) {
    this.name = pod.name;
    this.label = null;
    this.kind = "good";
    this.open = false;
    this.boxes = new Map();
    this.build(pod);
  }

  build(pod) {
    const [stem, tail] = splitName(pod.name);
    const detailId = `pod-${pod.uid}`;
    this.button = el(
      "button",
      { class: "toggle", type: "button", "aria-expanded": "false", "aria-controls": detailId, onclick: () => this.toggle() },
      el("span", { class: "chevron", "aria-hidden": "true" }),
      el("span", { class: "name" }, el("span", { class: "space" }, pod.namespace), el("span", { class: "stem" }, stem, el("span", { class: "tail" }, tail))),
    );
    this.word = el("strong");
    this.sentence = el("span", { class: "sentence" });
    this.ready = cell("Ready", "number");
    this.restarts = cell("Restarts", "number");
    this.age = el("time");
    this.meter = meter(`Memory of ${pod.name}`);
    this.memory = el("span", { class: "amount" });
    this.memoryCell = el("td", { role: "cell", data: { label: "Memory" } }, this.memory, this.meter.node);
    this.cpu = cell("CPU", "number");
    this.ip = cell("Address", "mono");
    this.row = el(
      "tr",
      { role: "row", class: "pod" },
      el("th", { role: "rowheader", scope: "row" }, this.button),
      el("td", { role: "cell", class: "state" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", {}, this.word, this.sentence)),
      this.ready,
      this.restarts,
      el("td", { role: "cell", class: "number", data: { label: "Age" } }, this.age),
      this.memoryCell,
      this.cpu,
      this.ip,
    );
    this.box = el("div", { class: "containers" });
    this.detail = el("tr", { role: "row", class: "detail", id: detailId }, el("td", { role: "cell", colspan: "8" }, this.box));
  }

  nodes() {
    return this.open ? [this.row, this.detail] : [this.row];
  }

  toggle() {
    this.open = !this.open;
    setAttr(this.button, "aria-expanded", String(this.open));
    if (this.open) this.showContainers();
    else this.close();
    draw();
  }

  close() {
    for (const box of this.boxes.values()) box.close();
  }

  show(pod, state, snapshot) {
    this.pod = pod;
    this.usage = snapshot.usage ?? {};
    this.label = state.label;
    this.kind = state.kind;
    const containers = pod.containers ?? [];
    setClass(this.row, `pod ${state.kind}${this.open ? " open" : ""}`);
    setText(this.word, state.label);
    setText(this.sentence, state.sentence ?? "");
    setText(this.ready, `${containers.filter((c) => c.ready).length}/${containers.length}`);
    const restarts = allOf(pod).reduce((sum, c) => sum + (c.restarts ?? 0), 0);
    setText(this.restarts, String(restarts));
    this.restarts.classList.toggle("loud", restarts > 0 && state.kind !== "good");
    this.restarts.classList.toggle("zero", restarts === 0); // left out on a phone
    showTime(this.age, pod.started_wall ?? 0, "age");
    this.showUse(totals(pod, this.usage));
    setText(this.ip, pod.ip || "–");
    if (this.open) this.showContainers();
  }

  showUse({ running, memory, limit, cores }) {
    const limited = running && limit !== Infinity;
    setText(this.memory, !running ? "–" : limited ? bytesOf(memory, limit) : `${bytes(memory)}, no limit`);
    setClass(this.memoryCell, running ? "memory" : "memory off");
    this.meter.node.hidden = !limited;
    if (limited) this.meter.set(memory, limit, bytesOf(memory, limit));
    setText(this.cpu, cores === null ? "–" : cpu(cores));
  }

  showContainers() {
    const containers = allOf(this.pod);
    const first = new Set((this.pod.init ?? []).map((c) => c.name));
    const names = new Set(containers.map((c) => c.name));
    for (const [name, box] of this.boxes) {
      if (!names.has(name)) {
        box.close();
        this.boxes.delete(name);
      }
    }
    const nodes = containers.map((container) => {
      let box = this.boxes.get(container.name);
      if (!box) {
        box = new ContainerBox(container.name, first.has(container.name) ? "init" : "");
        this.boxes.set(container.name, box);
      }
      box.show(container, this.usage[container.container_id], coresOf(container.container_id));
      return box.node;
    });
    setChildren(this.box, nodes);
  }
}

function cell(label, kind) {
  return el("td", { role: "cell", class: kind, data: { label } });
}

/** A ReplicaSet's pods end in "-<hash>-<five letters>": the part that people read comes first and is set apart. */
function splitName(name) {
  const found = /^(.+?)((?:-[0-9a-z]{6,10})?-[0-9a-z]{5})$/.exec(name);
  return found ? [found[1], found[2]] : [name, ""];
}
