// Timers, claims, members and the audit: pages of a table each.

import { address } from "./address.js";
import { get } from "./api.js";
import { button, card, field, json, made, pill, put, table } from "./dom.js";
import { count, moment, seconds } from "./format.js";

const PAGE = 100;
const stream = (name) => made("a", { href: address("aggregate", { stream: name }) }, name);

export async function timers(where, { may, act, go, query }) {
  const parked = query.parked === "1";
  const payloads = query.payloads === "1" && may("payload");
  const found = await get("timers", { after_stream: query.after_stream, after_name: query.after_name, parked: parked || undefined, payloads: payloads || undefined, limit: PAGE });
  const check = (id, on, words, change) => made("label", { class: "check" }, made("input", { type: "checkbox", id, checked: on, change }), words);
  put(where, made("div", { class: "card filters" },
    check("timers-parked", parked, "Only those set aside", () => go("timers", { ...query, after_stream: null, after_name: null, parked: parked ? null : 1 })),
    may("payload") ? check("timers-payloads", payloads, "With their commands", () => go("timers", { ...query, payloads: payloads ? null : 1 })) : null,
    may("retry-timers") ? button("Retry all that are set aside", () => act({ path: "timers/retry", body: {}, title: "Retry timers", yes: "Retry", reason: "none", about: "They are due at once." })) : null),
  card("Timers", table("Timers", [["Due"], ["Aggregate"], ["Name"], ["Command"], ["State"], ["Act"]],
    found.timers.map((each) => [moment(each.due), stream(each.stream), each.name, each.payload === null ? each.command : made("details", {}, made("summary", {}, each.command), json(each.payload)), standing(each), acts(each, may, act)]), "No timer waits."),
  more(found.after, (after) => go("timers", { ...query, after_stream: after[0], after_name: after[1] }))));
  return 0;
}

function acts(each, may, act) {
  const body = { stream: each.stream, name: each.name };
  const what = `${each.name} of ${each.stream}`;
  return made("p", { class: "act" },
    may("fire-timer") ? button("Fire now", () => act({ path: "timers/fire", body, title: "Fire a timer", yes: "Fire now", reason: "optional", about: `${what}: its command is run now.` })) : null,
    may("cancel-timer") && !(each.parked && !each.attempts) ? button("Cancel", () => act({ path: "timers/cancel", body, title: "Cancel a timer", yes: "Cancel the timer", reason: "optional", danger: true, about: `${what}: its command is not run. The timer stays, set aside.` })) : null);
}

function standing(each) {
  if (each.parked && !each.attempts) return [pill("cancelled", "calm"), ` ${each.cause}`];
  if (each.parked) return [pill("set aside", "bad"), ` ${each.cause}`];
  return each.attempts ? [pill(`failed ${each.attempts}×`, "wait"), ` ${each.cause}`] : pill("waits", "calm");
}

function more(after, next) {
  return after === null ? null : made("p", { class: "act pages" }, button("Next page", () => next(after)));
}

export async function sagas(where, { may, go, query }) {
  const waiting = query.waiting === "1";
  const payloads = query.payloads === "1" && may("payload");
  const found = await get("sagas", { before: query.before, waiting: waiting || undefined, payloads: payloads || undefined, limit: PAGE / 2 });
  const named = (each) => made("li", {}, each.name.includes(".") ? each.command : `${each.name}: ${each.command}`, " ", each.attempts || each.parked ? standing(each) : made("span", { class: "quiet" }, moment(each.due)), each.payload === null ? null : json(each.payload));
  const listed = (all) => all.length ? made("ul", { class: "plain" }, ...all.map(named)) : made("span", { class: "quiet" }, "none");
  put(where, made("div", { class: "card filters" },
    made("label", { class: "check" }, made("input", { type: "checkbox", id: "sagas-waiting", checked: waiting, change: () => go("sagas", { ...query, before: null, waiting: waiting ? null : 1 }) }), "Only those that wait"),
    may("payload") ? made("label", { class: "check" }, made("input", { type: "checkbox", id: "sagas-payloads", checked: payloads, change: () => go("sagas", { ...query, payloads: payloads ? null : 1 }) }), "With their states") : null),
  card("Process managers", table("Sagas", [["Moved"], ["Instance"], ["Last event"], ["Waits for"], ["Commands under way"]],
    found.sagas.map((each) => [moment(each.recorded), [stream(each.stream), each.state === null ? null : json(each.state)], `${each.event}, version ${each.version}`, listed(each.timers), listed(each.commands)]), found.note || "No process manager has moved."),
  more(found.older, (before) => go("sagas", { ...query, before }))));
  return 0;
}

export async function claims(where, { go, query }) {
  const found = await get("claims", { after_name: query.after_name, after_value: query.after_value, limit: PAGE });
  const name = made("input", { id: "claims-name", type: "search", placeholder: "email", value: query.after_name ?? "", autocomplete: "off" });
  const value = made("input", { id: "claims-value", type: "search", value: query.after_value ?? "", autocomplete: "off" });
  put(where, made("form", { class: "card filters", submit: (event) => { event.preventDefault(); go("claims", { after_name: name.value, after_value: value.value }); } },
    field("Behind the name", name), field("and the value", value), made("p", { class: "act" }, made("button", { type: "submit" }, "Show"))),
  card("Unique values", table("Claims", [["Name"], ["Value"], ["Held by"], ["Since", "number"]],
    found.claims.map((each) => [each.name, each.value, stream(each.stream), count(each.position)]), "Nothing is claimed."),
  more(found.after, (after) => go("claims", { after_name: after[0], after_value: after[1] }))));
  return 0;
}

const known = (number) => (number === null ? "–" : count(number));

export async function members(where) {
  const found = await get("members");
  put(where, card("Processes that share the log", table("Members", [["Process", "number"], ["Role"], ["Since", "number"], ["Commands sent", "number"], ["Unanswered", "number"], ["Lease", "number"], ["Slots", "number"], ["Decided", "number"], ["Lag", "number"]],
    found.members.map((each) => [each.machine ? `${each.process} on ${each.machine}` : each.process, pill(each.role, each.role === "member" ? "calm" : "good"), seconds(each.seconds), ...[each.commands, each.waiting].map(known), each.lease === null ? "–" : seconds(each.lease), ...[each.slots, each.decided, each.lag].map(known)]), found.note || "Nobody.")));
  return 3000;
}

export async function audit(where, { go, query }) {
  const offset = Number(query.offset ?? 0);
  const found = await get("audit", { offset, limit: PAGE });
  put(where, card(`What operators did, ${count(found.total)} entries`, table("Audit", [["When"], ["What"], ["Of"], ["Who"], ["Reason"]],
    found.entries.map((each) => [moment(each.at), each.action, each.position === null ? each.target : `${each.target} at ${count(each.position)}`, each.principal ?? made("span", { class: "quiet" }, "nobody named"), each.reason || made("span", { class: "quiet" }, "none given")]), "Nothing was done."),
  made("p", { class: "act pages" },
    offset ? button("Newest", () => go("audit")) : null,
    offset + PAGE < found.total ? button("Older", () => go("audit", { offset: offset + PAGE })) : null)));
  return 0;
}
