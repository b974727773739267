// Search as you type: the answer to the last letter is shown, whichever comes last.
import { cell, made, say, there } from "./dom.js";
import { count, money, plural } from "./format.js";
import { ask } from "./http.js";
import { add } from "./basket.js";

const PAUSE_MS = 120;
const LIMIT = 8;

let pause = null;
let asking = null;

function typed() {
  clearTimeout(pause);
  pause = setTimeout(search, PAUSE_MS);
}

async function search() {
  asking?.abort();
  const words = there("search").value.trim();
  if (!words) {
    show([], "Type a word, or the beginning of one.");
    return;
  }
  const mine = (asking = new AbortController());
  const query = new URLSearchParams({ q: words, limit: LIMIT });
  try {
    const { products } = await ask(`/catalogue?${query}`, { signal: mine.signal });
    const told = products.length ? `${plural(products.length, "product")}, the best first.` : "No product has these words.";
    if (mine === asking) show(products, told);
  } catch (error) {
    if (error.name !== "AbortError") show([], error.message);
  }
}

function show(products, told) {
  const rows = products.map((product) => {
    const name = made("span", { class: "name" }, product.description || product.product, " ", made("small", {}, product.product));
    const order = made("button", { type: "button", click: () => add(product), "aria-label": `Add ${product.description}` }, "Add");
    return made("tr", {}, cell(name), cell(product.last_price === null ? "–" : money(product.last_price), "number"),
      cell(count(product.units_sold), "number wide"), cell(order, "number"));
  });
  there("found").replaceChildren(...rows);
  there("found").closest("table").tHead.hidden = rows.length === 0;
  say("found-told", told);
}

there("search").addEventListener("input", typed);
// What was typed before this was read, or is there again after a reload.
if (there("search").value) typed();
