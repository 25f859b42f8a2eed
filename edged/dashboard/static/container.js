// One container of an opened pod: how it is, how it ended last, and its log on demand.

import { el, setAttr, setChildren, setClass, setText } from "./dom.js";
import { bytes, bytesOf, cpu, duration, showTime } from "./format.js";
import { LogPanel } from "./log.js";

export class ContainerBox {
  constructor(name, kind) {
    this.log = null;
    this.id = "";
    this.image = el("p", { class: "image" });
    this.facts = el("dl", { class: "pairs" });
    this.pairs = new Map();
    this.button = el("button", { class: "plain", type: "button", "aria-expanded": "false", onclick: () => this.toggleLog() }, "Show log");
    this.place = el("div");
    this.node = el(
      "article",
      { class: "container" },
      el("div", { class: "head" }, el("h3", {}, name, kind ? el("small", {}, ` ${kind}`) : ""), this.button),
      this.image,
      this.facts,
      this.place,
    );
  }

  show(container, use, cores) {
    this.id = container.container_id ?? "";
    const digest = (container.image_id ?? "").replace("sha256:", "").slice(0, 12); // as `podman images` shows it
    setText(this.image, digest ? `${container.image} · ${digest}` : container.image);
    this.wanted = [];
    this.showState(container);
    if (container.last_reason || (container.last_exit_code ?? null) !== null) this.showLast(container);
    this.pair("Restarts", String(container.restarts ?? 0));
    if (use) {
      const limit = use.memory_limit ?? null;
      this.pair("Memory", limit === null ? `${bytes(use.memory ?? 0)}, no limit` : bytesOf(use.memory ?? 0, limit));
      this.pair("CPU", cores === null ? "–" : `${cpu(cores)} of a core`);
      this.pair("Processes", String(use.pids ?? 0));
    }
    const usual = container.working_set_p95 ?? 0;
    if (usual) this.pair("Learned", `mostly below ${bytes(usual)}, never above ${bytes(container.working_set_peak ?? usual)}`);
    setChildren(this.facts, this.wanted);
    this.button.hidden = !this.id;
    if (this.log) this.log.show(this.id);
  }

  showState(container) {
    const words = {
      running: container.ready ? "Running and ready" : "Running, not ready",
      waiting: `Waiting${container.reason ? `: ${container.reason}` : ""}`,
      terminated: `Ended${container.reason ? `: ${container.reason}` : ""}`,
    };
    let text = words[container.state] ?? container.state;
    if (container.state === "terminated" && (container.exit_code ?? null) !== null) text += `, exit code ${container.exit_code}`;
    if (container.message) text += `. ${container.message}`;
    this.pair("State", text, container.state === "running" && container.ready ? "" : "wide");
    const since = container.state === "running" ? container.started_wall : container.finished_wall;
    if (since > 0) this.time(container.state === "running" ? "Started" : "Ended", since);
  }

  showLast(container) {
    const parts = [container.last_reason || "ended"];
    if ((container.last_exit_code ?? null) !== null) parts.push(`exit code ${container.last_exit_code}`);
    const ran = (container.last_finished_wall ?? 0) - (container.last_started_wall ?? 0);
    if (container.last_started_wall > 0 && ran >= 0) parts.push(`after ${duration(ran)}`);
    this.pair("Last exit", parts.join(", "), "loud");
    if (container.last_finished_wall > 0) this.time("Last ended", container.last_finished_wall);
  }

  entry(name) {
    let entry = this.pairs.get(name);
    if (!entry) {
      const value = el("dd");
      entry = { node: el("div", {}, el("dt", {}, name), value), value };
      this.pairs.set(name, entry);
    }
    this.wanted.push(entry.node);
    return entry;
  }

  pair(name, text, kind = "") {
    const { node, value } = this.entry(name);
    setClass(node, kind);
    setText(value, text);
  }

  time(name, wall) {
    const { value } = this.entry(name);
    if (!value.firstChild) value.append(el("time"));
    showTime(value.firstChild, wall);
  }

  toggleLog() {
    if (this.log) {
      this.close();
    } else {
      this.log = new LogPanel();
      this.place.replaceChildren(this.log.node);
      this.log.show(this.id);
    }
    setText(this.button, this.log ? "Hide log" : "Show log");
    setAttr(this.button, "aria-expanded", String(this.log !== null));
  }

  close() {
    this.log?.close();
    this.log = null;
    this.place.replaceChildren();
    setText(this.button, "Show log");
    setAttr(this.button, "aria-expanded", "false");
  }
}

