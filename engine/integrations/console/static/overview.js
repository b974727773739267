// The overview: how the engine stands, in numbers, and where work waits.

import { address } from "./address.js";
import { get } from "./api.js";
import { card, made, pill, put, table, tile } from "./dom.js";
import { bytes, count, kindOf, moment, plural, rate, seconds } from "./format.js";

const KEPT = 60;
const series = { events: [], commands: [] };

export async function show(where, { may }) {
  const told = await get("overview");
  note("events", told.rates?.events);
  note("commands", told.rates?.commands);
  const inside = told.commands_open !== null;
  put(where,
    made("dl", { class: "tiles", "aria-label": "Figures" },
      tile("Engine", pill(told.state, kindOf(told.state)), [told.role, told.process ? `process ${told.process}` : null].filter(Boolean).join(", ") || null),
      tile("Events", count(told.position), told.recorded ? `last at ${moment(told.recorded)}` : "none yet"),
      tile("Events/s", [rate(told.rates?.events), line("events")]),
      inside ? tile("Commands/s", [rate(told.rates?.commands), line("commands")]) : null,
      inside ? tile("Commands open", count(told.commands_open), `${plural(told.undurable_events, "event")} before the next commit`) : null,
      tile("Lag of views", count(told.lag_events), told.lag_seconds === null ? "in events" : `${seconds(told.lag_seconds)} behind`, told.lag_events > 1000 ? "wait" : ""),
      tile("Parked", made("a", { href: address("parked") }, count(told.parked)), "events set aside", told.parked ? "bad" : ""),
      inside ? tile("Timers", made("a", { href: address("timers") }, count(told.timers_waiting)), `${count(told.timers_due)} due, ${count(told.timers_parked)} set aside`, told.timers_parked ? "bad" : "") : null,
      inside ? tile("In memory", count(told.resident), "aggregates") : null,
      told.file_bytes === null ? null : tile("Log", bytes(told.file_bytes), `${bytes(told.wal_bytes)} to be merged`)),
    told.troubled.length ? card("Needs attention", made("p", {}, ...told.troubled.flatMap((name, n) => [n ? ", " : "", made("a", { href: address("projections", { name }) }, name)]))) : null,
    made("div", { class: "halves" },
      card("Hot aggregates", streams(told.hot, `Of the last ${plural(told.hot_of, "event")}`, "Events", "Nothing was written yet.")),
      inside ? card("Fullest mailboxes", streams(told.mailboxes, "Commands that wait", "Waiting", "No command waits.")) : null),
    inside ? card("Latencies", latencies(told.latencies)) : null,
    inside ? card("Answers since the start", answers(told)) : null);
  return may("look") ? 2000 : 0;
}

function note(name, value) {
  if (value === null || value === undefined) return;
  series[name].push(value);
  if (series[name].length > KEPT) series[name].shift();
}

// How it went in the last minutes, as bars of text: it needs no drawing, and copies as it looks.
function line(name) {
  const seen = series[name].slice(-24);
  if (seen.length < 2) return null;
  const most = Math.max(...seen, 1);
  const bars = seen.map((value) => "▁▂▃▄▅▆▇█"[Math.min(7, Math.floor((value / most) * 7.99))]).join("");
  return made("span", { class: "bars", role: "img", "aria-label": `between ${rate(Math.min(...seen))} and ${rate(most)}` }, bars);
}

function streams(found, about, number, nothing) {
  return table(about, [["Aggregate"], [number, "number"]],
    found.map((each) => [made("a", { href: address("aggregate", { stream: each.stream }) }, each.stream), count(each.count)]), nothing);
}

function latencies(found) {
  return table("Latencies", [["Station"], ["Recently", "number"], ["median", "number"], ["99 %", "number"], ["Since start", "number wide"], ["median", "number wide"], ["99 %", "number wide"], ["longest", "number wide"]],
    found.map((each) => [each.name, count(each.recent), seconds(each.recent_p50), seconds(each.recent_p99), count(each.count), seconds(each.p50), seconds(each.p99), seconds(each.max)]), "Nothing was measured yet.");
}

function answers(told) {
  const rows = Object.entries(told.answers).sort(([, one], [, other]) => other - one).map(([name, number]) => [name, count(number)]);
  if (told.overloaded) rows.push(["turned away", count(told.overloaded)]);
  return table("Answers", [["Answer"], ["Commands", "number"]], rows, "No command was answered yet.");
}
