// Numbers and times in words. All times are the node's: a board's clock may be wrong, ages are still right.

const MIB = 1024 * 1024;

/** "412 MiB", "3.7 GiB"; narrow no-break spaces keep number and unit together. */
export function bytes(amount) {
  const [value, unit] = split(amount);
  return `${value}\u202f${unit}`;
}

/** "22 / 48 MiB" where both have the same unit, else "22 MiB / 1.5 GiB". */
export function bytesOf(amount, limit) {
  const [value, unit] = split(amount);
  const [most, mostUnit] = split(limit);
  return unit === mostUnit ? `${value} / ${most}\u202f${unit}` : `${value}\u202f${unit} / ${most}\u202f${mostUnit}`;
}

function split(amount) {
  if (amount < MIB) return [String(Math.round(amount / 1024)), "KiB"];
  if (amount < 1000 * MIB) return [(amount / MIB).toFixed(amount < 10 * MIB ? 1 : 0), "MiB"];
  const gib = amount / MIB / 1024;
  return [gib.toFixed(gib < 10 ? 2 : 1), "GiB"];
}

/** "8 s", "21 min", "3 h 4 min", "12 d": the two largest units at most, for a glance. */
export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}\u202fs`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes}\u202fmin`;
  const hours = Math.floor(minutes / 60);
  if (hours < 10) return minutes % 60 ? `${hours}\u202fh ${minutes % 60}\u202fmin` : `${hours}\u202fh`;
  if (hours < 48) return `${hours}\u202fh`;
  return `${Math.floor(hours / 24)}\u202fd`;
}

export function ago(seconds) {
  return seconds < 3 ? "just now" : `${duration(seconds)} ago`;
}

/** CPU in percent of one core. */
export function cpu(cores) {
  const percent = cores * 100;
  return `${percent < 0.95 ? percent.toFixed(1) : percent.toFixed(0)}\u202f%`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/** Local clock time of a wall time in seconds, with the date where it isn't today. */
export function moment(wall) {
  const date = new Date(wall * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString() : date.toLocaleString();
}

/** What the node's clock says now, followed from the last snapshot on. */
export const nodeClock = {
  wall: Date.now() / 1000,
  at: performance.now(),
  set(wall) {
    this.wall = wall;
    this.at = performance.now();
  },
  now() {
    return this.wall + (performance.now() - this.at) / 1000;
  },
};

/** Make `node` (a <time>) show how long ago `wall` was and keep doing so; `shape` is "age" or "ago". */
export function showTime(node, wall, shape = "ago") {
  node.dataset.wall = String(wall);
  node.dataset.shape = shape;
  const stamp = wall > 0 ? new Date(wall * 1000).toISOString() : "";
  if (node.dateTime !== stamp) {
    node.dateTime = stamp;
    node.title = wall > 0 ? new Date(wall * 1000).toLocaleString() : "";
  }
  tick(node);
}

function tick(node) {
  const wall = Number(node.dataset.wall);
  const past = nodeClock.now() - wall;
  const text = wall <= 0 ? "–" : node.dataset.shape === "age" ? duration(past) : ago(past);
  if (node.textContent !== text) node.textContent = text;
}

export function tickAll() {
  for (const node of document.querySelectorAll("time[data-wall]")) tick(node);
}
