// A container's log, followed while it is open. One at a time: each costs the board a connection and the browser one of six.

import { el, setText } from "./dom.js";

const TAIL = 200;
const MOST = 1000; // lines kept on the page; the oldest go first

let open = null;

export class LogPanel {
  constructor() {
    open?.pause();
    open = this;
    this.id = "";
    this.source = null;
    this.waiting = []; // lines that came since the last frame
    this.last = null; // {stream, node} while the line isn't finished
    this.lines = el("div", { class: "lines", role: "log", tabindex: "0", "aria-label": "Log", "aria-live": "off" });
    this.note = el("p", { class: "under" }, "Opening…");
    this.node = el("div", { class: "log" }, this.lines, this.note);
  }

  /** Follow this container; a new id (it was started again) goes on below the old lines. */
  show(id) {
    if (!id || id === this.id) return;
    if (this.id && this.lines.childElementCount) this.mark("started again");
    this.id = id;
    this.connect();
  }

  connect() {
    this.source?.close();
    let began = false;
    this.source = new EventSource(`/api/logs/${encodeURIComponent(this.id)}/follow?tail=${TAIL}`);
    this.source.onopen = () => {
      if (began) this.lines.replaceChildren(); // after a break the tail comes again
      began = true;
      setText(this.note, "Following. New lines appear here.");
    };
    this.source.addEventListener("log", (event) => this.take(JSON.parse(event.data)));
    this.source.onerror = () => {
      const ended = this.source?.readyState === EventSource.CLOSED;
      setText(this.note, ended ? "The log can't be followed now; close it and open it again." : "Connection lost, trying again…");
    };
  }

  take(line) {
    if ("end" in line) {
      this.source?.close();
      setText(this.note, line.end || "The container has ended; this is all it wrote.");
      return;
    }
    if (this.waiting.length === 0) requestAnimationFrame(() => this.draw());
    this.waiting.push(line);
    if (this.waiting.length > MOST) this.waiting.splice(1, this.waiting.length - MOST); // no frames in a hidden tab
  }

  draw() {
    const atEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 24;
    const fresh = [];
    for (const line of this.waiting) {
      if (this.last?.stream === line.stream) {
        this.last.node.append(line.text);
      } else {
        const text = el("span", { class: "text" }, line.text);
        fresh.push(el("p", { class: line.stream === "stderr" ? "stderr" : "" }, el("time", { datetime: line.time }, clock(line.time)), text));
        this.last = { stream: line.stream, node: text };
      }
      if (!line.partial) this.last = null;
    }
    this.waiting = [];
    this.lines.append(...fresh);
    while (this.lines.childElementCount > MOST) this.lines.firstElementChild.remove();
    if (atEnd) this.lines.scrollTop = this.lines.scrollHeight;
  }

  mark(text) {
    this.lines.append(el("p", { class: "mark" }, text));
  }

  pause() {
    this.source?.close();
    setText(this.note, "Paused: another log was opened. Close and open this one to go on.");
  }

  close() {
    this.source?.close();
    if (open === this) open = null;
  }
}

function clock(stamp) {
  const date = new Date(stamp.replace(/(\.\d{3})\d+/, "$1")); // not every browser takes nanoseconds
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString([], { hour12: false });
}
