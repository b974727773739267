// Elements of the page. What comes from the log becomes text here, and never markup.

export const there = (id) => document.getElementById(id);

// Makes an element; of its attributes, functions are listeners, and false or null is left out.
export function made(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...inside.flat().filter((piece) => piece !== null && piece !== undefined).map((each) => piece(each)));
  return element;
}

function piece(inside) {
  return inside instanceof Node ? inside : document.createTextNode(String(inside));
}

export function button(words, act, kind = "") {
  return made("button", { type: "button", class: kind || null, click: act }, words);
}

export function pill(words, kind) {
  return made("span", { class: `pill ${kind}` }, words);
}

const NUMBERS = new Set(["Position", "Version", "Tries"]);

export function heading(title) {
  return made("th", { scope: "col", class: NUMBERS.has(title) ? "number" : null }, title);
}

// A table: columns are [title, class], rows are arrays of what stands in the cells, or elements.
export function table(about, columns, rows, nothing) {
  if (rows.length === 0) return made("p", { class: "quiet" }, nothing);
  const head = columns.map(([title, kind]) => made("th", { scope: "col", class: kind ?? null }, title));
  const body = rows.map((row) => row instanceof Node ? row : made("tr", {}, ...row.map((inside, n) =>
    made("td", { class: columns[n][1] ?? null, "data-name": columns[n][0] }, inside ?? "–"))));
  return made("div", { class: "scroll" }, made("table", { "aria-label": about },
    made("thead", {}, made("tr", {}, ...head)), made("tbody", {}, ...body)));
}

export function card(title, ...inside) {
  return made("section", { class: "card" }, title ? made("h2", {}, title) : null, ...inside);
}

export function tile(name, value, about = null, kind = "") {
  return made("div", { class: `card tile ${kind}` }, made("dt", {}, name),
    made("dd", {}, value), about ? made("dd", { class: "quiet about" }, about) : null);
}

export function field(words, input) {
  return made("label", {}, made("span", {}, words), input);
}

// Puts new content in place of the old, and keeps the focus where it was, by the id of what has it.
export function put(where, ...inside) {
  const focused = where.contains(document.activeElement) ? document.activeElement.id : "";
  const open = new Set([...where.querySelectorAll("details[open][id]")].map((each) => each.id));
  where.replaceChildren(...inside.flat().filter((each) => each !== null && each !== undefined));
  for (const id of open) there(id)?.setAttribute("open", "");
  if (focused) there(focused)?.focus();
}

// JSON as it stands, on several lines.
export function json(value) {
  return made("pre", { class: "json", tabindex: "0" }, JSON.stringify(value, null, 2));
}
