// One aggregate: its events, its state at each version by a slider, and what differs between two.

import { address } from "./address.js";
import { get } from "./api.js";
import { card, field, heading, json, made, put, table } from "./dom.js";
import { count, moment } from "./format.js";
import { row } from "./log.js";

const PAGE = 100;
let asking = 0;

export async function show(where, context) {
  const { query, may, go, info, signal } = context;
  const input = made("input", { id: "aggregate-stream", type: "search", placeholder: "kind:id, as order:o-1", value: query.stream ?? "", autocomplete: "off", spellcheck: "false", required: true });
  const form = made("form", { class: "card filters", submit: (event) => { event.preventDefault(); go("aggregate", { stream: input.value.trim() }); } },
    field("Aggregate", input), made("p", { class: "act" }, made("button", { type: "submit", class: "main" }, "Show")));
  if (!query.stream) {
    put(where, form, made("p", { class: "card quiet" }, "Give an aggregate: its kind, a colon and its id."));
    return 0;
  }
  const [newest, page] = await Promise.all([
    get("log", { stream: query.stream, limit: 1 }, signal),
    get("log", { stream: query.stream, before: query.before, limit: PAGE }, signal),
  ]);
  const last = newest.events[0]?.version ?? 0;
  const states = info.has_states && may("payload") && last > 0;
  put(where, form,
    last === 0 ? made("p", { class: "card quiet" }, `${query.stream} has no events.`) : null,
    states ? versions(query, last, signal) : last && may("payload") ? made("p", { class: "quiet" }, "States take the application's code: start the console with --app.") : null,
    last ? card(`Events, ${count(last)} versions`, made("div", { class: "scroll" }, made("table", { "aria-label": "Events", class: "stacked" },
      made("thead", {}, made("tr", {}, ...["Position", "Recorded", "Aggregate", "Version", "Event", "By"].map(heading))),
      made("tbody", {}, ...page.events.map((each) => row(each))))),
      made("p", { class: "act pages" },
        query.before ? made("a", { href: address("aggregate", { stream: query.stream }) }, "Newest") : null,
        page.older !== null ? made("a", { href: address("aggregate", { stream: query.stream, before: page.older }) }, "Older") : null,
        may("payload") ? made("a", { href: address("log", { stream: query.stream, payloads: 1 }) }, "With payloads") : null)) : null);
  return 0;
}

function versions(query, last, signal) {
  const chosen = Math.min(last, Math.max(1, Number(query.version ?? last)));
  const to = made("input", { id: "version-to", type: "range", min: "1", max: String(last), value: String(chosen) });
  const from = made("input", { id: "version-from", type: "range", min: "0", max: String(last), value: String(chosen - 1) });
  const toTold = made("output", { for: "version-to" });
  const fromTold = made("output", { for: "version-from" });
  const state = made("div", { id: "state" });
  const changes = made("div", { id: "changes", "aria-live": "polite" });
  const draw = () => look(query.stream, Number(from.value), Number(to.value), { state, changes, toTold, fromTold }, signal);
  for (const slider of [to, from]) slider.addEventListener("input", draw);
  // Moving the version takes the other one along: what one event did is what is asked most.
  to.addEventListener("input", () => { from.value = String(Number(to.value) - 1); draw(); });
  draw();
  return made("div", { class: "halves" },
    card("State", made("label", { for: "version-to" }, "Version ", toTold), to, state),
    card("What changed", made("label", { for: "version-from" }, "Compared with ", fromTold), from, changes));
}

async function look(stream, before, after, parts, signal) {
  asking += 1;
  const mine = asking;
  parts.toTold.textContent = count(after);
  parts.fromTold.textContent = before === 0 ? "nothing" : `version ${count(before)}`;
  // Who drags a slider passes many versions: only where it rests is asked.
  await new Promise((done) => setTimeout(done, 120));
  if (mine !== asking) return;
  try {
    const [state, changes, event] = await Promise.all([
      get("state", { stream, version: after }, signal),
      get("difference", { stream, before, after }, signal),
      get("log", { stream, limit: 1, before: undefined }, signal),
    ]);
    if (mine !== asking) return;
    put(parts.state, json(state.state));
    put(parts.changes, table("What changed", [["Where"], ["Before"], ["After"]],
      changes.map((each) => [made("code", {}, each.path), side(each.before), side(each.after)]), "Nothing."),
    event.events.length ? made("p", { class: "quiet small" }, `Last event ${moment(event.events[0].recorded)}.`) : null);
  } catch (error) {
    if (error.name === "AbortError" || mine !== asking) return;
    put(parts.state, made("p", { class: "bad" }, error.message));
    put(parts.changes);
  }
}

function side(text) {
  return text === null ? made("span", { class: "quiet" }, "not there") : made("code", {}, text);
}
