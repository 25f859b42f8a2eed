// Small helpers: text only, never markup. Whatever comes from outside ends up in textContent or an attribute we name.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `data`, on…, attributes) and children (nodes or text). */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") node.className = value;
    else if (key === "data") Object.assign(node.dataset, value);
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Touch the document only where something differs: no flicker, no lost selection, nothing for screen readers. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttr(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

/** Make the children of `parent` exactly `nodes`, moving as few as possible and keeping the keyboard's focus. */
export function setChildren(parent, nodes) {
  const focused = document.activeElement;
  const keep = new Set(nodes);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  nodes.forEach((node, at) => {
    if (parent.children[at] !== node) parent.insertBefore(node, parent.children[at] ?? null);
  });
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** A bar for one amount: `value` of `limit`, with words for those who can't see it. */
export function meter(label) {
  const fill = el("span", { class: "fill" });
  const node = el("span", { class: "meter", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  return {
    node,
    set(value, limit, words) {
      const share = Math.max(0, Math.min(1, value / limit));
      const percent = Math.round(share * 100);
      setClass(node, `meter ${share > 0.95 ? "bad" : share > 0.85 ? "warn" : ""}`.trim());
      setAttr(node, "aria-valuenow", String(percent));
      setAttr(node, "aria-valuetext", words);
      const width = `${(share * 100).toFixed(1)}%`;
      if (fill.style.width !== width) fill.style.width = width;
    },
  };
}
