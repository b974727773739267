// The console: which page is shown, when it is asked anew, and the keyboard.

import { address } from "./address.js";
import { askFor, get, post } from "./api.js";
import { made, put, there } from "./dom.js";
import * as aggregate from "./aggregate.js";
import * as log from "./log.js";
import * as overview from "./overview.js";
import * as parked from "./parked.js";
import * as projections from "./projections.js";
import * as retention from "./retention.js";
import * as tables from "./tables.js";

const PAGES = [
  ["overview", "Overview", overview.show, "look"],
  ["projections", "Projections", projections.show, "look"],
  ["parked", "Parked", parked.show, "look"],
  ["log", "Log", log.show, "look"],
  ["aggregate", "Aggregate", aggregate.show, "look"],
  ["timers", "Timers", tables.timers, "look"],
  ["sagas", "Sagas", tables.sagas, "look"],
  ["claims", "Claims", tables.claims, "payload"],
  ["members", "Members", tables.members, "look"],
  ["audit", "Audit", tables.audit, "audit"],
  ["retention", "Retention", retention.show, "audit"],
];
const KEYS = [
  ["1 … 9, 0", "the pages, in their order"],
  ["/", "the first field of the page"],
  ["j, k", "the next and the previous row"],
  ["?", "this list"],
  ["Esc", "close a dialog"],
];

const context = { info: null, may: (action) => context.info?.actions.includes(action) ?? false, go, tell, act, query: {}, signal: null };
let turn = 0;
let timer = 0;
let stopping = new AbortController();

function go(page, query = {}) {
  const next = address(page, query);
  if (location.hash === next) showPage();
  else location.hash = next;
}

function tell(words, kind = "good") {
  const told = there("told");
  told.textContent = words;
  told.className = kind;
}

function placed() {
  const [, page = "overview", behind = ""] = /^#\/([a-z]+)\??(.*)$/.exec(location.hash) ?? [];
  return [page, Object.fromEntries(new URLSearchParams(behind))];
}

async function showPage() {
  turn += 1;
  const mine = turn;
  clearTimeout(timer);
  stopping.abort();
  stopping = new AbortController();
  const [name, query] = placed();
  const [, title, show] = PAGES.find(([page]) => page === name) ?? PAGES[0];
  context.query = query;
  context.signal = stopping.signal;
  askFor(stopping.signal);
  document.title = `${title} · ${context.info?.title ?? "Console"}`;
  for (const link of there("pages").children) {
    link.toggleAttribute("aria-current", false);
    if (link.dataset.page !== name) continue;
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  if (there("page").dataset.page !== name) {
    put(there("page"), made("p", { class: "quiet" }, "Loading …"));
    there("page").dataset.page = name;
    tell("");
  }
  await refresh(mine, show);
}

// Shows a page, and again after as many ms as it gives; nothing is asked while nobody looks.
async function refresh(mine, show) {
  let again = 0;
  try {
    again = (await show(there("page"), context)) ?? 0;
    connected("live");
  } catch (error) {
    if (error.name === "AbortError" || mine !== turn) return;
    again = error.status === undefined || error.status >= 500 ? 3000 : 0;
    if (error.status === undefined) connected("away");
    put(there("page"), made("p", { class: "card bad", role: "alert" }, error.status === undefined ? "The console does not answer. It is asked again." : error.message));
  }
  if (mine !== turn || !again) return;
  const next = () => {
    if (mine !== turn) return;
    if (document.visibilityState === "hidden") timer = setTimeout(next, 500);
    else refresh(mine, show);
  };
  timer = setTimeout(next, again);
}

function connected(state) {
  const there_ = there("connection");
  there_.dataset.state = state;
  there_.textContent = { live: "Live", away: "No answer", connecting: "Connecting …" }[state];
}

// -- what operators do -------------------------------------------------------------------------

// Asks for a reason, does it, tells what became of it, and shows the page anew.
async function act({ path, body, title, about = "", yes, reason = "optional", danger = false }) {
  const given = await asked(title, about, yes, reason, danger);
  if (given === null) return;
  tell("…", "quiet");
  try {
    const done = await post(path, reason === "none" ? body : { ...body, reason: given });
    tell(`${title}: ${done.text || done.state}`, done.state === "done" ? "good" : "wait");
  } catch (error) {
    tell(`${title}: ${error.message}`, "bad");
  }
  showPage();
}

function asked(title, about, yes, reason, danger) {
  const dialog = there("ask");
  there("ask-title").textContent = title;
  there("ask-about").textContent = about;
  there("ask-yes").textContent = yes;
  there("ask-yes").className = danger ? "danger" : "main";
  there("ask-reason").value = "";
  there("ask-reason").required = reason === "required";
  there("ask-reason").hidden = reason === "none";
  there("ask-reason").previousElementSibling.hidden = reason === "none";
  there("ask-reason-about").textContent = reason === "required" ? "(it is kept in the audit)" : "(optional; it is kept in the audit)";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((settle) => {
    there("ask-form").onsubmit = () => { dialog.returnValue = "yes"; };
    there("ask-no").onclick = () => dialog.close("");
    dialog.onclose = () => settle(dialog.returnValue === "yes" ? there("ask-reason").value.trim() : null);
  });
}

// -- the keyboard --------------------------------------------------------------------------------

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const links = [...there("pages").children];
  if (/^[0-9]$/.test(event.key)) links[(Number(event.key) + 9) % 10]?.click();
  else if (event.key === "/") there("page").querySelector("input:not([type=range]), select")?.focus();
  else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (event.key === "?") there("keys").showModal();
  else return;
  event.preventDefault();
}

function step(by) {
  const rows = [...there("page").querySelectorAll("tbody a, tbody summary, tbody button")];
  const at = rows.indexOf(document.activeElement);
  rows[Math.min(rows.length - 1, Math.max(0, at + by))]?.focus();
}

async function begin() {
  put(there("keys-list"), KEYS.flatMap(([key, about]) => [made("dt", {}, made("kbd", {}, key)), made("dd", {}, about)]));
  there("keys-show").addEventListener("click", () => there("keys").showModal());
  document.addEventListener("keydown", pressed);
  try {
    context.info = await get("console");
  } catch (error) {
    connected("away");
    put(there("page"), made("p", { class: "card bad", role: "alert" }, error.status === undefined ? "The console does not answer." : error.status === 403 ? "You may not look here. Open the address that was printed, with its token, or ask who runs this." : error.message));
    return;
  }
  there("title").textContent = context.info.title;
  there("who").textContent = context.info.principal ?? "";
  there("release").textContent = `Foldline ${context.info.release}`;
  const seen = PAGES.filter(([page, , , action]) => context.may(action) && (page !== "retention" || context.info.has_rules));
  put(there("pages"), seen.map(([page, title]) => made("a", { href: `#/${page}`, "data-page": page }, title)));
  addEventListener("hashchange", showPage);
  await showPage();
}

begin();
