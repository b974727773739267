// Rules of retention: what is due by them, and the button that does it.

import { get } from "./api.js";
import { button, card, made, pill, put, table } from "./dom.js";
import { bytes, count, plural } from "./format.js";

export async function show(where, { may, act, go, query }) {
  const rest = query.rest === "1";
  const looks = query.look === "1";
  const found = looks ? await get("retention", { at_rest: rest || undefined }) : null;
  put(where, made("div", { class: "card filters" },
    made("label", { class: "check" }, made("input", { type: "checkbox", id: "retention-rest", checked: rest, change: () => go("retention", { ...query, rest: rest ? null : 1 }) }), "The log is at rest, and the clock is right"),
    made("p", { class: "act" },
      looks ? null : button("Look what is due", () => go("retention", { ...query, look: 1 }), "main"),
      looks && may("retain") ? button("Erase and archive", () => act({
        path: "retention", body: { at_rest: rest }, title: "Rules of retention", yes: "Erase and archive", reason: "none", danger: true,
        about: `${due(found)} No key comes back, and each is kept in the audit.` }), "danger") : null)),
  looks ? card("Due by the rules of the program", table("Due", [["What"], ["Whom"], ["Rule"], ["Streams", "number"], ["Events", "number"], ["Contents", "number"]],
    found.map(row), "Nothing is due.")) : made("p", { class: "card quiet" }, "To find people, the whole log is read."));
  where.querySelector("table")?.classList.add("stacked");
  return 0;
}

function row(each) {
  const erases = each.action === "erase";
  return [pill(each.action, erases ? "bad" : "calm"), each.subject ?? "–", each.rule, count(each.streams ?? 0), erases ? "–" : count(each.events ?? 0), erases ? "–" : bytes(each.bytes ?? 0)];
}

function due(found) {
  const people = found.filter((each) => each.action === "erase").length;
  const events = found.reduce((sum, each) => sum + (each.events ?? 0), 0);
  return `${people === 1 ? "1 person is" : `${count(people)} people are`} erased, and ${plural(events, "event")} archived.`;
}
