// The log: the newest events first, with filters, and live.

import { address } from "./address.js";
import { get } from "./api.js";
import { button, field, heading, json, made, put } from "./dom.js";
import { bytes, count, moment } from "./format.js";

const PAGE = 50;
const LIVE_ROWS = 200;
const WAIT_SECONDS = 15;
const FILTERS = [["stream", "Aggregate", "order:o-1"], ["kind", "Kind", "order"], ["name", "Event", "order-created"], ["correlation", "Correlation", ""], ["key", "Key", ""]];

export async function show(where, context) {
  const { query, may, go, signal } = context;
  const payloads = Boolean(query.payloads) && may("payload");
  const asked = { ...Object.fromEntries(FILTERS.map(([name]) => [name, query[name]])), since: query.since, until: query.until, payloads: payloads || undefined };
  const limit = Number(query.limit ?? PAGE);
  const page = await get("log", { ...asked, before: query.before, limit }, signal);
  const body = made("tbody", { id: "log-rows" }, ...page.events.map((each) => row(each)));
  const none = made("p", { class: "quiet", id: "log-none", hidden: page.events.length > 0 }, page.older === null ? "No event matches." : "No event matches so far.");
  const live = query.live === "1";
  put(where, filters(context, payloads, live),
    made("div", { class: "card" }, made("div", { class: "scroll" }, made("table", { "aria-label": "Events", class: "stacked", id: "log-table" },
      made("thead", {}, made("tr", {}, ...["Position", "Recorded", "Aggregate", "Version", "Event", "By"].map(heading))), body)), none),
    made("p", { class: "act pages" },
      query.before ? button("Newest", () => go("log", { ...query, before: null, limit: null })) : null,
      page.older !== null ? button(page.events.length < limit ? "Look further back" : "Older", () => go("log", { ...query, before: page.older, live: null, limit: null })) : null,
      made("span", { class: "quiet" }, `The log ends at ${count(page.end)}.`)));
  if (live) follow(body, none, asked, page.end, signal);
  return 0;
}

// Asks again and again for what is behind the last event, and shows it above.
async function follow(body, none, asked, end, signal) {
  while (!signal.aborted) {
    try {
      const page = await get("log", { ...asked, after: end, wait: WAIT_SECONDS, limit: LIVE_ROWS }, signal);
      end = Math.max(end, page.end);
      const fresh = page.events.map((each) => row(each, "fresh"));
      if (page.older !== null && fresh.length) fresh.push(made("tr", { class: "quiet" }, made("td", { colspan: "6" }, "… more came than is shown here …")));
      body.prepend(...fresh);
      while (body.rows.length > LIVE_ROWS) body.lastElementChild.remove();
      none.hidden = body.rows.length > 0;
      if (fresh.length) await new Promise((done) => setTimeout(done, 250));
    } catch (error) {
      if (error.name === "AbortError" || (error.status !== undefined && error.status < 500)) return;
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
}

function filters({ query, may, go }, payloads, live) {
  const inputs = FILTERS.map(([name, title, hint]) => [name, field(title, made("input", { id: `log-${name}`, name, type: "search", value: query[name] ?? "", placeholder: hint, autocomplete: "off", spellcheck: "false" }))]);
  const since = made("input", { id: "log-since", name: "since", type: "datetime-local", step: "1", value: local(query.since) });
  const until = made("input", { id: "log-until", name: "until", type: "datetime-local", step: "1", value: local(query.until) });
  const chosen = (event) => {
    event.preventDefault();
    const sent = Object.fromEntries(FILTERS.map(([name]) => [name, document.getElementById(`log-${name}`).value.trim()]));
    go("log", { ...sent, since: micros(since.value), until: micros(until.value), payloads: payloads ? 1 : null, live: live ? 1 : null });
  };
  return made("form", { class: "card filters", submit: chosen }, ...inputs.map(([, input]) => input), field("Since", since), field("Until", until),
    made("p", { class: "act" }, made("button", { type: "submit", class: "main" }, "Show"),
      button(live ? "Stop" : "Follow live", () => go("log", { ...query, before: null, live: live ? null : 1 }), live ? "danger" : ""),
      may("payload") ? button(payloads ? "Hide payloads" : "Show payloads", () => go("log", { ...query, payloads: payloads ? null : 1 })) : null,
      button("Clear", () => go("log"))));
}

function local(microseconds) {
  if (!microseconds) return "";
  const at = new Date(Number(microseconds) / 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

function micros(text) {
  return text ? new Date(text).getTime() * 1000 : null;
}

export function row(each, kind = null) {
  if (each.damaged !== null) {
    return made("tr", { class: "damaged" }, made("td", { class: "number", "data-name": "Position" }, count(each.position)), made("td", { colspan: "5", "data-name": "Damaged" }, each.damaged));
  }
  const more = [["Key", each.key], ["Correlation", each.correlation], ["Causation", each.causation]].filter(([, value]) => value);
  return made("tr", { class: kind },
    made("td", { class: "number", "data-name": "Position" }, count(each.position)),
    made("td", { "data-name": "Recorded" }, moment(each.recorded)),
    made("td", { "data-name": "Aggregate" }, made("a", { href: address("aggregate", { stream: each.stream, version: each.version }) }, each.stream)),
    made("td", { class: "number", "data-name": "Version" }, count(each.version)),
    made("td", { "data-name": "Event" }, `${each.name} v${each.event_version}`,
      more.length ? made("p", { class: "quiet small" }, ...more.flatMap(([title, value], n) => [n ? " · " : "", `${title.toLowerCase()} `, title === "Correlation" ? made("a", { href: address("log", { correlation: value }) }, value) : value])) : null,
      each.headers ? made("details", {}, made("summary", {}, "Headers"), json(each.headers)) : null,
      each.payload === null ? null : json(each.payload),
      each.payload === null && each.payload_bytes > 16384 && location.hash.includes("payloads") ? made("p", { class: "small" }, made("a", { href: address("log", { before: each.position + 1, limit: 1, payloads: 1 }) }, `Show ${bytes(each.payload_bytes)}`)) : null),
    made("td", { "data-name": "By" }, each.principal ?? made("span", { class: "quiet" }, "–")));
}
