// The page: one event stream in, the document kept equal to what it says. Nothing is asked for in between.

import { byId, el, setText } from "./dom.js";
import { moment, plural, tickAll } from "./format.js";
import { showEvents } from "./events.js";
import { showNotices, showOverview } from "./overview.js";
import { showPods } from "./pods.js";

const HIDDEN_FOR = 30_000; // ms in the background after which the stream is closed: a forgotten tab costs the board nothing
const SILENT_FOR = 40_000; // ms without any word after which the connection counts as lost; the server speaks every 15 s

let source = null;
let view = null; // the last one told
let lost = null; // ms since when this page's server doesn't answer
let heard = Date.now();
let delay = 1000;
let again = 0;
let hideTimer = 0;

function connect() {
  clearTimeout(again);
  source?.close();
  source = new EventSource("/api/events");
  source.addEventListener("view", (event) => {
    heard = Date.now();
    lost = null;
    delay = 1000;
    view = JSON.parse(event.data);
    show();
  });
  source.onerror = () => {
    source?.close(); // the browser's own retry gives up on an HTTP error; ours doesn't
    source = null;
    lost ??= Date.now();
    show();
    if (document.hidden) return;
    again = setTimeout(reconnect, delay);
    delay = Math.min(delay * 1.6, 15_000);
  };
}

/** After a failure, first see whether we are still let in: a changed token needs a person. */
async function reconnect() {
  try {
    const answer = await fetch("/api/status", { method: "GET" });
    if (answer.status === 401) {
      location.reload();
      return;
    }
  } catch {
    // nobody there yet; the stream will say so
  }
  connect();
}

function show() {
  const snapshot = view?.snapshot ?? null;
  const stale = lost !== null || view?.answering === false;
  document.body.classList.toggle("stale", stale);
  showNotices(view, lost);
  if (snapshot) {
    showOverview(snapshot);
    announce(showPods(snapshot));
    showEvents(snapshot.status.events ?? []);
  } else if (view) {
    setText(byId("node"), view.node);
    setText(byId("link-text"), "nothing known yet");
  }
  document.body.classList.toggle("loading", !snapshot);
  const text = lost !== null ? "page's server lost, trying again" : stale ? "edged not answering" : "Live";
  setText(byId("live-text"), text);
}

/** Changes in words for screen readers; many at once become one sentence. */
function announce(sentences) {
  if (!sentences.length) return;
  const text = sentences.length > 3 ? `${plural(sentences.length, "pod")} changed state` : sentences.join(". ");
  byId("announce").replaceChildren(el("p", {}, `${text}, ${moment(Date.now() / 1000)}`));
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hideTimer);
  if (document.hidden) {
    hideTimer = setTimeout(() => {
      source?.close();
      source = null;
    }, HIDDEN_FOR);
  } else if (!source) {
    connect();
  }
});

setInterval(() => {
  tickAll();
  if (source && Date.now() - heard > SILENT_FOR && !document.hidden) {
    lost ??= heard;
    heard = Date.now();
    show();
    connect();
  } else if (lost !== null || view?.answering === false) {
    show();
  }
}, 1000);

document.body.classList.add("loading");
connect();
