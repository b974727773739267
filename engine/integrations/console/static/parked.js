// Parked events: why each is set aside, and what becomes of it.

import { address } from "./address.js";
import { get } from "./api.js";
import { button, field, heading, made, put } from "./dom.js";
import { count, lastLine, moment, plural } from "./format.js";

const PAGE = 50;

export async function show(where, { may, act, go, query }) {
  const projections = await get("projections");
  const name = query.projection ?? (projections.find((each) => each.parked) ?? projections[0])?.name;
  if (name === undefined) {
    put(where, made("p", { class: "card quiet" }, "There are no projections."));
    return 0;
  }
  const after = Number(query.after ?? 0);
  const found = await get("parked", { projection: name, key: query.key, after, limit: PAGE });
  const standing = projections.find((each) => each.name === name);
  const chosen = made("select", { id: "parked-projection", change: (event) => go("parked", { projection: event.target.value }) },
    ...projections.map((each) => made("option", { value: each.name, selected: each.name === name }, `${each.name} (${count(each.parked)})`)));
  const key = made("input", { id: "parked-key", type: "search", placeholder: "all keys", value: query.key ?? "", autocomplete: "off", spellcheck: "false" });
  const form = made("form", { class: "card filters", submit: (event) => { event.preventDefault(); go("parked", { projection: name, key: key.value }); } },
    field("Projection", chosen), field("Key", key),
    made("p", { class: "act" }, made("button", { type: "submit" }, "Show"),
      may("retry") && standing?.parked ? button(query.key ? "Retry this key" : "Retry all", () => act({
        path: "projections/retry", body: query.key ? { projection: name, key: query.key } : { projection: name },
        title: query.key ? `Retry ${query.key}` : `Retry all of ${name}`, yes: "Retry",
        about: "They are tried in order, and no further than it goes: of a key whose event fails again, the later ones stay.",
      }), "main") : null));
  put(where, form,
    made("p", { class: "quiet" }, `${plural(standing?.parked ?? 0, "event")} of ${name} set aside. All later events of a key wait behind its first one.`),
    found.length ? list(found, name, may, act) : made("p", { class: "card quiet" }, after || query.key ? "Nothing here." : "No event is parked."),
    made("p", { class: "act pages" },
      after ? button("First page", () => go("parked", { projection: name, key: query.key })) : null,
      found.length === PAGE ? button("Next page", () => go("parked", { projection: name, key: query.key, after: found[found.length - 1].position })) : null));
  return 0;
}

function list(found, name, may, act) {
  return made("div", { class: "scroll card" }, made("table", { "aria-label": "Parked events", class: "stacked" },
    made("thead", {}, made("tr", {}, ...["Position", "Event", "Aggregate", "Since", "Tries", "Cause"].map(heading), made("th", { scope: "col" }, made("span", { class: "hidden" }, "Act")))),
    made("tbody", {}, ...found.flatMap((each) => rows(each, name, may, act)))));
}

// A row, and below it the traceback, which is shown when somebody asks for it.
function rows(each, name, may, act) {
  const below = made("tr", { class: "below", hidden: true }, made("td", { colspan: "7" }, made("pre", { tabindex: "0" }, each.cause)));
  const buttons = [
    may("retry") && each.attempts ? button("Retry", () => act({ path: "projections/retry", body: { projection: name, key: each.key }, title: `Retry ${each.key}`, yes: "Retry" })) : null,
    may("skip") ? button("Skip", () => act({
      path: "projections/skip", body: { projection: name, position: each.position }, title: `Skip position ${each.position} in ${name}`,
      yes: "Skip for good", reason: "required", danger: true, about: `${each.event} of ${each.stream} is left out of ${name}, over rebuilds too. The log keeps it.`,
    }), "danger") : null,
  ];
  const cause = each.cause ? made("details", { class: "failure", toggle: (event) => { below.hidden = !event.target.open; } }, made("summary", {}, lastLine(each.cause))) : made("span", { class: "quiet" }, "behind another");
  return [made("tr", {},
    made("td", { class: "number", "data-name": "Position" }, made("a", { href: address("log", { before: each.position + 1, limit: 1, payloads: 1 }) }, count(each.position))),
    made("td", { "data-name": "Event" }, each.event),
    made("td", { "data-name": "Aggregate" }, made("a", { href: address("aggregate", { stream: each.stream }) }, each.stream), each.key === each.stream ? null : made("span", { class: "quiet" }, ` key ${each.key}`)),
    made("td", { "data-name": "Since" }, moment(each.parked)),
    made("td", { class: "number", "data-name": "Tries" }, each.attempts ? count(each.attempts) : "waits"),
    made("td", { "data-name": "Cause", class: "cause" }, cause),
    made("td", { class: "act" }, ...buttons)), below];
}
