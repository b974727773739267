// The form of a new order. It is sent under one key until it has its answer, so that a crash in
// between makes no second order.
import { cell, made, say, there } from "./dom.js";
import { money } from "./format.js";
import { change, newKey } from "./http.js";
import { openOrder } from "./order.js";

const lines = new Map();
let key = newKey();
let touched = false;

export function add(product) {
  const line = lines.get(product.product) ?? {
    product: product.product, description: product.description, quantity: 0, unit_price: product.last_price ?? 0,
  };
  line.quantity += 1;
  lines.set(product.product, line);
  draw();
}

// Lets the form follow the shop's own clock until somebody sets it, and offer its countries.
export function follow(shop) {
  const now = [...shop.newest, ...shop.sent].map((order) => order.invoiced_at).sort().at(-1);
  if (!touched && now) form().invoiced.value = now;
  const names = shop.countries.map((row) => row.country);
  if (there("countries").dataset.names === names.join()) return;
  there("countries").dataset.names = names.join();
  there("countries").replaceChildren(...names.map((name) => made("option", { value: name })));
}

const form = () => there("new").elements;
const local = (date) => new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);

function draw() {
  there("basket").replaceChildren(...[...lines.values()].map((line) => {
    const name = made("span", { class: "name" }, line.description || line.product, " ", made("small", {}, line.product));
    const pieces = made("input", {
      type: "number", min: 1, step: 1, value: line.quantity, "aria-label": `Pieces of ${line.description}`,
      input: () => { line.quantity = pieces.valueAsNumber || 0; },
    });
    const out = made("button", { type: "button", "aria-label": `Leave out ${line.description}`, click: () => leaveOut(line) }, "✕");
    return made("tr", {}, cell(name), cell(money(line.unit_price), "number"), cell(pieces, "number"), cell(out, "number"));
  }));
  there("basket").closest("table").tHead.hidden = lines.size === 0;
  there("basket-none").hidden = lines.size > 0;
}

function leaveOut(line) {
  lines.delete(line.product);
  draw();
}

async function send(submit) {
  submit.preventDefault();
  const { country, customer, invoiced } = form();
  say("new-told", "…");
  const buyer = { country: country.value, customer_id: customer.value || null };
  const time = invoiced.value.length === 16 ? `${invoiced.value}:00` : invoiced.value.slice(0, 19);
  try {
    const done = await change("POST", "/orders", { buyer, invoiced_at: time, lines: [...lines.values()] }, { key });
    say("new-told", `Order ${done.order_id.slice(0, 8)}… is on the disk.`, "good");
    lines.clear();
    draw();
    openOrder(done.order_id);
  } catch (error) {
    say("new-told", error.message, "bad");
  }
  // Refused or done: what is sent next is another order.
  key = newKey();
}

there("new").addEventListener("submit", send);
form().invoiced.value = local(new Date());
form().invoiced.addEventListener("input", () => { touched = true; });
