// Elements of the page. What comes from the shop becomes text here, and never markup.

export const there = (id) => document.getElementById(id);

// Of the page's own empty drawing, so that no address stands here.
const DRAWING = document.querySelector("svg")?.namespaceURI;

// Makes an element; of its attributes, functions are listeners, and false or null is left out.
export function made(tag, attributes = {}, ...inside) {
  return filled(document.createElement(tag), attributes, inside);
}

export function drawn(tag, attributes = {}, ...inside) {
  return filled(document.createElementNS(DRAWING, tag), attributes, inside);
}

function filled(element, attributes, inside) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...inside.map((piece) => text(piece)));
  return element;
}

function text(piece) {
  return piece instanceof Node ? piece : document.createTextNode(String(piece));
}

export function say(id, words, kind = "") {
  const element = there(id);
  if (element.textContent === words) return;
  element.textContent = words;
  if (kind !== null) element.className = kind;
}

export function cell(inside, name = "") {
  return made("td", { class: name }, inside);
}

// Puts rows into a table's body; a row that was not there before is marked as fresh.
export function fill(id, items, key, cells) {
  const body = there(id);
  const known = new Set([...body.rows].map((row) => row.dataset.key));
  const first = body.dataset.filled !== "true";
  const rows = items.map((item) => {
    const fresh = !first && !known.has(key(item));
    return made("tr", { "data-key": key(item), class: fresh ? "fresh" : null }, ...cells(item));
  });
  // What has not changed stays, so that a mark may fade and a focus is not lost.
  const before = [...body.rows];
  if (!same(before, rows)) body.replaceChildren(...rows.map((row) => kept(before, row)));
  body.dataset.filled = "true";
  const head = body.closest("table");
  head.hidden = rows.length === 0;
  const none = there(`${id}-none`);
  if (none) none.hidden = rows.length > 0;
}

function same(before, rows) {
  return before.length === rows.length && rows.every((row, n) => alike(before[n], row));
}

function alike(one, other) {
  return one.dataset.key === other.dataset.key && one.textContent === other.textContent;
}

function kept(before, row) {
  const old = before.find((candidate) => alike(candidate, row));
  return old ?? row;
}
