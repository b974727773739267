// The projections: how they stand, and what is done with them.

import { address } from "./address.js";
import { get } from "./api.js";
import { button, card, made, pill, put } from "./dom.js";
import { count, kindOf, lastLine, plural, rate, seconds } from "./format.js";

export async function show(where, { may, act, query }) {
  const found = await get("projections");
  const shown = query.name ? found.filter((each) => each.name === query.name) : found;
  put(where,
    query.name ? made("p", {}, made("a", { href: address("projections") }, "All projections")) : null,
    shown.length ? shown.map((each) => one(each, may, act)) : made("p", { class: "card quiet" }, "There are no projections."));
  return 2000;
}

function one(each, may, act) {
  const name = each.name;
  const buttons = [];
  const offer = (action, words, options = {}) => {
    if (!may(action)) return;
    const made_ = button(words, () => act({ path: `projections/${action}`, body: { projection: name }, title: `${words} ${name}`, yes: words, ...options }), options.danger ? "danger" : "");
    made_.id = `${action}-${name}`;
    buttons.push(made_);
  };
  if (each.state === "paused" || each.state === "stopped") offer("resume", "Resume");
  if (each.state !== "paused") offer("pause", "Pause", { about: "It rests until somebody resumes it, over restarts too. Queries see its rows as they are." });
  if (each.building) offer("cancel", "Cancel the build", { danger: true });
  else offer("rebuild", "Rebuild", { about: "It is folded again beside the tables that serve, and takes their place when it has caught up." });
  if (each.builds.some((build) => build.state === "former")) offer("drop", "Drop former builds", { danger: true, about: "Their tables are removed." });
  offer("reset", "Reset", { danger: true, reason: "required", about: "Its tables are emptied, and queries see them fill again. A SINK DELIVERS EVERYTHING AGAIN." });
  const facts = [
    ["Serves", each.serving === null ? "nothing yet" : `version ${each.serving}`],
    ["Position", count(each.position)],
    ["Lag", `${plural(each.lag_events ?? 0, "event")}, ${seconds(each.lag_seconds)}`],
    ["Parked", each.parked ? made("a", { href: address("parked", { projection: name }) }, plural(each.parked, "event")) : "none"],
    ["Slices", count(each.slices)],
    each.retries ? ["Tried again", `${plural(each.retries, "time")}`] : null,
  ].filter(Boolean);
  return made("section", { class: "card projection", "aria-label": name },
    made("div", { class: "heading" }, made("h2", {}, name), pill(each.state, kindOf(each.state))),
    made("dl", { class: "facts" }, ...facts.flatMap(([title, value]) => [made("dt", {}, title), made("dd", {}, value)])),
    each.building ? build(each.building) : null,
    each.failure ? failure("Stopped", each.failure, `failure-${name}`) : null,
    each.retrying ? failure("Tries again", each.retrying, `retrying-${name}`) : null,
    each.requests.map((request) => made("p", { class: "wait" }, `Request ${request.number}, ${request.kind}, by ${request.principal ?? "nobody named"}: ${request.state}`)),
    builds(each),
    buttons.length ? made("p", { class: "act" }, ...buttons) : null);
}

function build(building) {
  const end = building.position + building.lag_events;
  const left = building.seconds_left === null ? "" : `, ${seconds(building.seconds_left)} left`;
  return made("div", { class: "build" },
    made("p", {}, `Build ${building.number} of version ${building.version}: ${building.state}, at ${count(building.position)} of ${count(end)}, ${rate(building.events_per_second)} events/s${left}`),
    made("progress", { max: Math.max(1, end), value: building.position, "aria-label": `How far build ${building.number} is` }),
    building.failure ? failure("Stopped", building.failure, `build-${building.number}`) : null);
}

function builds(each) {
  const others = each.builds.filter((build) => build.state !== "serving");
  if (!others.length) return null;
  return made("p", { class: "quiet" }, "Other builds: ", others.map((build) => `${build.number} (version ${build.version}, ${build.state}${build.builder ? `, by ${build.builder}` : ""})`).join(", "));
}

function failure(words, found, id) {
  const what = found.event ? `, ${found.event} of ` : "";
  return made("details", { class: "failure", id },
    made("summary", {}, `${words} at position ${count(found.position)}: ${lastLine(found.cause)}`),
    found.event ? made("p", {}, `${found.event} of `, made("a", { href: address("aggregate", { stream: found.stream }) }, found.stream)) : null,
    made("pre", { tabindex: "0" }, found.cause, what ? "" : ""));
}
