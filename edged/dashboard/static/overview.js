// The head of the page: who this is, how it stands to its hub, what the board has left.

import { byId, el, setAttr, setChildren, setClass, setText } from "./dom.js";
import { bytes, bytesOf, duration, moment, nodeClock } from "./format.js";

const HISTORY = 150; // samples of load kept for the line: five minutes at one every two seconds
const GAP = 1.8; // seconds between two samples at least

const load = [];
let sampled = -Infinity;

export function showOverview(snapshot) {
  const { status, machine = {}, budget = {}, daemon = {}, hub = {} } = snapshot;
  nodeClock.set(snapshot.wall);
  const capacity = status.capacity;
  const cores = Math.max(1, Math.round(capacity.cpu / 1000));
  document.title = `${status.node} · edged`;
  setText(byId("node"), status.node);
  const facts = [machine.model, shortOs(capacity.os), capacity.architecture, `${cores} ${cores === 1 ? "core" : "cores"}`, status.address];
  setText(byId("board"), facts.filter(Boolean).join(" · "));
  showLink(hub);
  byId("generation").hidden = false;
  setText(byId("generation"), `Generation ${snapshot.generation ?? status.generation}`);
  showMemory(budget, machine.memory_total || capacity.memory);
  showLoad(machine.load ?? [0, 0, 0], cores, snapshot.wall);
  showBoard(machine, daemon);
  setText(byId("versions"), ["edged", status.version, "·", capacity.runtime, "·", capacity.kernel].filter(Boolean).join(" "));
}

/** "Debian 12" for "Debian GNU/Linux 12 (bookworm)": the line has to fit. */
const shortOs = (name) => (name ?? "").replace("GNU/Linux ", "").replace(/ \([^)]*\)$/, "");

function showLink(hub) {
  const state = hub.state ?? "local";
  const since = hub.since_wall > 0 ? ` · ${duration(nodeClock.now() - hub.since_wall)}` : "";
  const words = { connected: `Hub connected${since}`, away: `Hub away${since}`, local: "Works alone, no hub" };
  setText(byId("link-text"), words[state] ?? state);
  setClass(byId("link"), `pill ${{ connected: "good", away: "warn" }[state] ?? "quiet"}`);
  setAttr(byId("link"), "title", hub.since_wall > 0 ? `since ${new Date(hub.since_wall * 1000).toLocaleString()}` : null);
}

function showMemory(budget, total) {
  const { used = 0, requested = 0, allocatable = 0 } = budget;
  setText(byId("memory-used"), bytes(used));
  setText(byId("memory-of"), `of ${bytes(allocatable)} for pods`);
  setText(byId("legend-used"), bytes(used));
  setText(byId("legend-requested"), bytes(requested));
  setText(byId("legend-allocatable"), bytes(allocatable));
  setText(byId("legend-total"), bytes(total));
  const bar = byId("memory-bar");
  const part = { used, requested, allocatable };
  for (const [name, amount] of Object.entries(part)) {
    bar.querySelector(`.${name}`).style.width = `${Math.min(100, (100 * amount) / Math.max(total, 1)).toFixed(2)}%`;
  }
  setAttr(
    bar,
    "aria-label",
    `Pods use ${bytes(used)} and asked for ${bytes(requested)} of ${bytes(allocatable)}; the board has ${bytes(total)}`,
  );
}

function showLoad(averages, cores, wall) {
  const [one, five, fifteen] = averages;
  setText(byId("load-1"), one.toFixed(2));
  setText(byId("load-of"), `of ${cores} ${cores === 1 ? "core" : "cores"}`);
  setText(byId("load-rest"), `5 min ${five.toFixed(2)} · 15 min ${fifteen.toFixed(2)}`);
  if (wall - sampled < GAP && wall > sampled) return;
  sampled = wall;
  load.push(one);
  if (load.length > HISTORY) load.shift();
  drawLine(cores);
}

function drawLine(cores) {
  const svg = byId("spark");
  const top = Math.max(cores / 2, ...load) * 1.05;
  const points = load.map((value, at) => {
    const x = (200 * at) / (load.length - 1); // the whole width from the start on, whatever time it spans
    return `${x.toFixed(1)},${(43 - (value / top) * 41).toFixed(1)}`;
  });
  if (points.length < 3) return;
  const first = points[0].split(",")[0];
  svg.querySelector(".line").setAttribute("d", `M${points.join("L")}`);
  svg.querySelector(".area").setAttribute("d", `M${first},44L${points.join("L")}L200,44Z`);
}

function showBoard(machine, daemon) {
  const heat = machine.temperature;
  setText(byId("temperature"), heat === undefined || heat === null ? "not told" : `${heat.toFixed(0)}\u202f°C`);
  setClass(byId("temperature"), heat >= 80 ? "bad" : heat >= 70 ? "warn" : "");
  const free = machine.storage_free ?? 0;
  setText(byId("storage"), machine.storage_total ? bytesOf(free, machine.storage_total) : "not told");
  setClass(byId("storage"), machine.storage_total && free / machine.storage_total < 0.1 ? "warn" : "");
  setText(byId("free"), machine.memory_available ? bytes(machine.memory_available) : "not told");
  setText(byId("uptime"), machine.uptime ? duration(machine.uptime) : "–");
  setText(byId("daemon"), daemon.pss ? bytes(daemon.pss) : "–");
  setAttr(byId("daemon"), "title", daemon.uptime ? `the daemon has run for ${duration(daemon.uptime)}` : null);
}

// ---------------------------------------------------------------- notices

const SHORT = {
  MemoryPressure: "The board is short of memory",
  DiskPressure: "The board is short of storage",
  PIDPressure: "The board is short of process numbers",
  NotReady: "The board can start no pods",
};

/** What a person should know before reading on; each notice keeps its element, so that it isn't read out again. */
const shown = new Map();

export function showNotices(view, lost) {
  const wanted = [];
  const snapshot = view?.snapshot;
  if (lost !== null) {
    wanted.push(["lost", "bad", "This page has lost its server", `Since ${moment(lost / 1000)}. It tries again by itself; what you see is from before.`]);
  } else if (view && !view.answering) {
    wanted.push(["daemon", "bad", `The daemon has not answered since ${moment(view.since)}`, `Pods run on without it, and this page recovers by itself. ${sentence(view.reason)}`]);
  }
  if (snapshot?.hub?.state === "away") {
    const why = snapshot.hub.reason ? ` ${sentence(snapshot.hub.reason)}` : "";
    wanted.push(["hub", "warn", "The hub is away", `The node carries on by itself and takes changes as soon as the hub is back.${why}`]);
  }
  const refused = snapshot?.status.refused;
  if (refused) {
    wanted.push(["refused", "warn", "A document from the hub was refused", `${sentence(refused.reason)} ${refused.count} so far, the last at ${moment(refused.wall)}.`]);
  }
  for (const condition of snapshot?.status.conditions ?? []) {
    const since = condition.since_wall > 0 ? ` Since ${moment(condition.since_wall)}.` : "";
    wanted.push([condition.kind, "warn", SHORT[condition.kind] ?? condition.kind, `${sentence(condition.message || condition.reason)}${since}`]);
  }
  const nodes = wanted.map((notice) => show(...notice));
  const degraded = snapshot?.status.degraded ?? [];
  if (degraded.length) nodes.push(showDegraded(degraded));
  setChildren(byId("notices"), nodes);
  for (const [key, { node }] of shown) if (!nodes.includes(node)) shown.delete(key);
}

function show(key, kind, head, text) {
  let entry = shown.get(key);
  if (!entry) {
    const strong = el("strong");
    const rest = el("span");
    entry = { node: el("div", { class: `notice ${kind}`, role: "status" }, strong, " ", rest), strong, rest };
    shown.set(key, entry);
  }
  setText(entry.strong, head);
  setText(entry.rest, text);
  return entry.node;
}

/** What this machine can't do fully: true all the time, so folded away behind one line. */
function showDegraded(sentences) {
  let entry = shown.get("degraded");
  if (!entry) {
    const rest = el("span");
    const list = el("ul");
    const node = el("div", { class: "notice info" }, el("details", {}, el("summary", {}, el("strong", {}, "Works with less"), " ", rest), list));
    entry = { node, rest, list, said: "" };
    shown.set("degraded", entry);
  }
  setText(entry.rest, sentences.length === 1 ? "One thing this machine can't do fully" : `${sentences.length} things this machine can't do fully`);
  const said = sentences.join("\n");
  if (entry.said !== said) {
    entry.said = said;
    entry.list.replaceChildren(...sentences.map((text) => el("li", {}, sentence(text))));
  }
  return entry.node;
}

/** A capital at the start, unless it is the name of a thing (memory.high), and a full stop at the end. */
function sentence(text) {
  const trimmed = (text ?? "").trim();
  if (!trimmed) return "";
  const start = /^(?!edged)[a-z]+[ ,]/.test(trimmed) ? trimmed[0].toUpperCase() : trimmed[0];
  return start + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}
