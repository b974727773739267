// One order: its history, any two versions of it and what differs, and what may be done to it.
import { cell, made, say, there } from "./dom.js";
import { count, event, money, recorded, shopMoment, status } from "./format.js";
import { ask, change, Refused } from "./http.js";

const PAGE = 200;

let order = null;
let asked = 0;

export async function openOrder(id) {
  order = { id, events: [], to: 0, from: 0, state: null };
  say("order-told", "");
  say("order-title", `Order ${id}`, null);
  if (!there("order").open) there("order").showModal();
  // So that a reload, or whoever is sent the address, sees the same order.
  history.replaceState(null, "", `#order-${encodeURIComponent(id)}`);
  await load();
}

function openNamed() {
  const id = location.hash.startsWith("#order-") && decodeURIComponent(location.hash.slice(7));
  if (id && id !== order?.id) openOrder(id);
}

// Shows what happened meanwhile to the order that is open.
export function orderMoved(shop) {
  if (!order || !there("order").open) return;
  const known = order.events.length;
  const listed = [...shop.newest, ...shop.sent].find((row) => row.order_id === order.id);
  if (known && listed && listed.version > known) load();
}

async function load() {
  const { id } = order;
  try {
    const happened = await events(id);
    if (order?.id !== id) return;
    order.events = happened;
  } catch (error) {
    say("order-told", error.message, "bad-told");
    return;
  }
  const last = order.events.length;
  there("to").max = last;
  there("from").max = last;
  await show(last, last - 1);
}

async function events(id) {
  const list = [];
  for (let after = 0; after !== null; ) {
    const page = await ask(`${path(id)}/history?after=${after}&limit=${PAGE}`);
    list.push(...page.events);
    after = page.after;
  }
  return list;
}

async function show(to, from) {
  const mine = (asked += 1);
  const { id, events } = order;
  Object.assign(order, { to, from });
  there("to").value = to;
  there("from").value = from;
  const [state, difference] = await Promise.all([
    ask(`${path(id)}/versions/${to}`),
    ask(`${path(id)}/difference?before=${from}&after=${to}`),
  ]);
  if (mine !== asked || order?.id !== id) return; // the slider has moved on
  order.state = state;
  summary(state, events);
  changes(difference.changes, state);
  lines(state, to === events.length && state.status === "created");
  timeline(events, to);
}

function summary(state, events) {
  say("order-status", status(state.status), `pill ${state.status}`);
  const buyer = state.buyer.customer_id ? `customer ${state.buyer.customer_id}, ` : "";
  say("order-about", `${buyer}${state.buyer.country}, invoiced ${shopMoment(state.invoiced_at)}`);
  say("to-told", `${order.to} of ${events.length}: ${event(events[order.to - 1].name)}`);
  say("from-told", order.from === 0 ? "nothing (before it was created)" : `version ${order.from}`);
  say("order-total", money(state.total), "number");
}

function changes(list, state) {
  const told = list.map((change) => made("li", {}, ...words(change, state)));
  there("changes").replaceChildren(...(told.length ? told : [made("li", { class: "quiet" }, "nothing")]));
}

function words({ path: [field, ...inside], before, after }, state) {
  if (field === "lines" && inside[1] === "quantity") return [`${named(inside[0], state)}: `, ...both(before, after, count), " pieces"];
  if (field === "lines" && after?.description !== undefined) {
    return [made("ins", {}, `${count(after.quantity)} × ${after.description || after.product} at ${money(after.unit_price)}`)];
  }
  if (field === "total") return ["total: ", ...both(before, after, money)];
  if (field === "status") return ["status: ", ...both(before, after, status)];
  if (field === "invoiced_at") return ["invoiced: ", ...both(before, after, (text) => text && shopMoment(text))];
  return [`${[field, ...inside].join(" ").replaceAll("_", " ")}: `, ...both(before, after, plainly)];
}

function named(id, state) {
  const line = state.lines.find(({ product, unit_price: price }) => `${product}@${price}` === id);
  return line?.description || id;
}

function both(before, after, shown) {
  const pieces = [];
  if (before !== undefined && before !== null && before !== "") pieces.push(made("del", {}, shown(before)), " → ");
  pieces.push(made("ins", {}, after === undefined || after === null ? "nothing" : shown(after)));
  return pieces;
}

const plainly = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

function lines(state, open) {
  there("lines").replaceChildren(...state.lines.map((line) => {
    const name = made("span", { class: "name" }, line.description || line.product, " ", made("small", {}, line.product));
    return made("tr", {}, cell(name), cell(money(line.unit_price), "number wide"), pieces(line, open), cell(money(line.quantity * line.unit_price), "number"));
  }));
  there("order-act").hidden = !open;
}

function pieces(line, open) {
  if (!open) return cell(count(line.quantity), "number");
  const input = made("input", {
    type: "number", min: 1, step: 1, value: line.quantity, "aria-label": `Pieces of ${line.description}`,
    change: () => adjust(line, input.valueAsNumber),
  });
  return cell(input, "number");
}

function timeline(events, to) {
  there("history").replaceChildren(...events.map((one) => {
    const by = [one.principal && `by ${one.principal}`, one.key && `key ${one.key}`].filter(Boolean).join(", ");
    const choose = { type: "button", click: () => show(one.version, one.version - 1), "aria-current": one.version === to ? "step" : null };
    return made("li", {}, made("button", choose,
      made("b", {}, one.version), made("span", {}, event(one.name)),
      made("small", {}, `${recorded(one.recorded)} · position ${count(one.position)} in the log${by ? ` · ${by}` : ""}`)));
  }));
}

const adjust = (line, quantity) =>
  act("PUT", `/lines/${encodeURIComponent(`${line.product}@${line.unit_price}`)}`, { quantity: Number.isInteger(quantity) ? quantity : 0 });

async function act(method, what, body) {
  say("order-told", "…");
  try {
    const done = await change(method, path(order.id) + what, body, { version: order.events.length });
    say("order-told", `Done and on the disk: version ${done.version}.`, "good-told");
  } catch (error) {
    const late = error instanceof Refused && error.status === 412;
    say("order-told", late ? "Somebody else has changed it meanwhile: this is how it is now." : error.message, "bad-told");
  }
  await load();
}

const path = (id) => `/orders/${encodeURIComponent(id)}`;

there("to").addEventListener("input", () => {
  const to = Number(there("to").value);
  show(to, Math.min(order.from, to - 1) === order.from ? order.from : to - 1);
});
there("from").addEventListener("input", () => show(order.to, Number(there("from").value)));
there("ship").addEventListener("click", () => act("POST", "/shipment"));
there("cancel").addEventListener("click", () => act("POST", "/cancellation", { reason: "customer" }));
there("order").addEventListener("close", () => {
  order = null;
  history.replaceState(null, "", location.pathname);
});
there("order").addEventListener("click", (click) => {
  if (click.target === there("order")) there("order").close(); // beside it
});
addEventListener("hashchange", openNamed);
openNamed();
