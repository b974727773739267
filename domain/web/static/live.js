// The live page: one stream of answers, and two tables that show the newest of them.
//
// Rules: what comes from the shop becomes text and never markup. A lost connection is said at once,
// and tried again, ever more seldom, until it is there. What comes faster than the screen is drawn
// is not drawn.
"use strict";

const RETRY_MS_FIRST = 500;
const RETRY_MS_MAX = 10_000;
const AWAY_MS = 30_000;

const money = new Intl.NumberFormat("en-GB", { style: "currency", currency: "GBP" });
const whole = new Intl.NumberFormat("en-GB");
const there = (id) => document.getElementById(id);

let stream = null;
let retry = null;
let retryMs = RETRY_MS_FIRST;
let newest = null;
let drawing = false;
let hiddenAt = null;

function connect() {
  clearTimeout(retry);
  retry = null;
  stream?.close();
  const mine = (stream = new EventSource("/live/overview"));
  mine.addEventListener("message", (message) => {
    if (mine !== stream) return;
    try {
      newest = JSON.parse(message.data);
    } catch {
      lost(mine);
      return;
    }
    retryMs = RETRY_MS_FIRST;
    say("live", "Live");
    if (!drawing) {
      drawing = true;
      requestAnimationFrame(draw);
    }
  });
  // Also where the server answers with an error, after which a browser would not try again.
  mine.addEventListener("error", () => lost(mine));
}

function lost(mine) {
  if (mine !== stream) return;
  mine.close();
  stream = null;
  say("lost", "Connection lost: what you see is as it was. Trying again …");
  retry = setTimeout(connect, retryMs * (0.75 + Math.random() / 2));
  retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
}

function say(state, text) {
  const connection = there("connection");
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = text;
  document.querySelector("main").classList.toggle("stale", state === "lost");
}

function draw() {
  drawing = false;
  const { pending, newest: orders, best_sellers: sellers } = newest;
  document.title = `(${whole.format(pending)}) The shop, live`;
  there("pending-count").textContent = whole.format(pending);
  fill("pending", orders, (order) => [
    cell(order.order_id, "code"),
    cell(order.country),
    cell(order.invoiced_at.replace("T", " ").slice(0, 16), "wide time"),
    cell(money.format(order.total / 100), "number"),
  ]);
  const more = there("pending-more");
  more.hidden = pending <= orders.length;
  more.textContent = `and ${whole.format(pending - orders.length)} more`;
  fill("sellers", sellers, (product) => [
    cell(product.product, "wide code"),
    cell(product.description || product.product),
    cell(whole.format(product.units_sold), "number"),
    cell(money.format(product.revenue / 100), "number"),
  ]);
}

function fill(id, items, cells) {
  const rows = items.map((item) => {
    const row = document.createElement("tr");
    row.append(...cells(item));
    return row;
  });
  there(id).replaceChildren(...rows);
  there(id).closest("table").hidden = rows.length === 0;
  there(`${id}-none`).hidden = rows.length > 0;
}

function cell(text, name = "") {
  const made = document.createElement("td");
  made.className = name;
  made.textContent = text;
  if (name.includes("code")) made.title = text;
  return made;
}

// A machine that slept, or lost its network, need not wait for the next try, nor for the noticing.
addEventListener("online", connect);
addEventListener("offline", () => stream && lost(stream));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    hiddenAt = Date.now();
  } else if (retry !== null || Date.now() - hiddenAt > AWAY_MS) {
    connect();
  }
});
connect();
