// What has happened, newest first.

import { byId, el, setChildren, setClass, setText } from "./dom.js";
import { showTime } from "./format.js";

const FEW = 8;
const rows = new Map(); // by epoch-unique seq; only those on the page
let all = false;
let latest = [];

byId("more-events").addEventListener("click", () => {
  all = !all;
  draw();
});

export function showEvents(events) {
  latest = [...events].reverse();
  draw();
}

function draw() {
  const chosen = all ? latest : latest.slice(0, FEW);
  const wanted = new Set(chosen.map(key));
  for (const name of [...rows.keys()]) if (!wanted.has(name)) rows.delete(name);
  setChildren(byId("events"), chosen.map(row));
  byId("no-events").hidden = latest.length > 0;
  const button = byId("more-events");
  button.hidden = latest.length <= FEW;
  setText(button, all ? "Show fewer" : `Show all ${latest.length}`);
}

const key = (event) => `${event.seq}/${event.wall}`;

function row(event) {
  const known = rows.get(key(event));
  if (known) return known;
  const time = el("time");
  const node = el(
    "li",
    {},
    time,
    el("span", { class: "what" }, el("strong", {}, event.reason), " ", el("span", { class: "message" }, event.message)),
    el("span", { class: "whom" }, event.title ?? ""),
  );
  setClass(node, event.kind === "Warning" ? "warning" : "normal");
  if (event.kind === "Warning") node.querySelector("strong").setAttribute("aria-label", `Warning: ${event.reason}`);
  showTime(time, event.wall);
  rows.set(key(event), node);
  return node;
}
