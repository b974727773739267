// The demo: how far the replay is, the kill, and the proof that it lost nothing.
import { made, say, there } from "./dom.js";
import { count, plural, shopMoment } from "./format.js";
import { ask } from "./http.js";
import { onConnection } from "./stream.js";

const POLL_MS = 500;

let before = null;
let killedAt = null;
let timer = null;

export async function beginDemo() {
  await look();
}

async function look() {
  clearTimeout(timer);
  try {
    const now = await ask("/demo");
    if (!now.life) return; // no demo: nothing to ask again
    if (before && now.life > before.life && now.proof) proved(now);
    before = now;
    draw(now);
  } catch {
    // The process is away; who is asked next is the one that takes its place.
  }
  timer = setTimeout(look, killedAt === null ? POLL_MS : POLL_MS / 5);
}

function draw({ replay, killable, process, life }) {
  there("demo").hidden = !(replay || killable);
  there("kill-box").hidden = !killable;
  const lives = life > 1 ? `, after ${plural(life - 1, "kill")}` : "";
  say("kill-about", `as kill -9 ${process} does${lives}`);
  there("replay").hidden = !replay;
  if (!replay) return;
  const done = replay.executed + replay.repeated + replay.refused;
  there("replay-bar").value = done / replay.commands;
  say("replay-time", replay.done ? "The two weeks are over" : replay.shop_time ? shopMoment(replay.shop_time) : "…");
  const parts = [`${count(done)} of ${plural(replay.commands, "command")}`, `${count(replay.refused)} refused by the rules`];
  if (replay.repeated) parts.push(`${count(replay.repeated)} recognised by their keys`);
  say("replay-told", parts.join(" · "));
}

async function kill() {
  there("kill").disabled = true;
  down();
  // No answer comes: the process is dead before it could send one. A browser may then send it again
  // by itself, so it says whom it means.
  fetch(`/demo/kill?life=${before.life}`, { method: "POST" }).catch(() => {});
  look();
}

function down() {
  killedAt ??= performance.now();
  there("proof").hidden = false;
  there("proof").className = "proof down";
  say("proof-title", `Process ${before?.process ?? ""} is dead`, null);
  say("proof-told", "SIGKILL: nothing in it could finish. Another one opens the same files and reads back what was on the disk.");
  there("proof-figures").replaceChildren();
}

function proved(now) {
  const seconds = killedAt === null ? null : (performance.now() - killedAt) / 1000;
  killedAt = null;
  there("kill").disabled = false;
  const { acknowledged, events, lost, doubled } = now.proof;
  const fine = lost === 0 && doubled === 0;
  there("proof").hidden = false;
  there("proof").className = fine ? "proof" : "proof bad";
  say("proof-title", fine ? "✓ Nothing was lost, and nothing was done twice" : "The log is not what was acknowledged", null);
  const took = seconds === null ? "" : ` after ${seconds.toFixed(1)} s`;
  say("proof-told", `Process ${before.process} was killed; process ${now.process} took over${took}. Each command that was acknowledged before is in its log, once, and in its place; the replay goes on behind them.`);
  figures([["acknowledged before", acknowledged], ["events in the log", events], ["lost", lost], ["done twice", doubled]]);
}

function figures(pairs) {
  const shown = pairs.map(([name, number]) => made("div", {}, made("dt", {}, name), made("dd", {}, count(number))));
  there("proof-figures").replaceChildren(...shown);
}

there("kill").addEventListener("click", kill);
// However it was killed, by the button or from a terminal, it is asked who answers now.
onConnection((state) => state === "live" && before && look());
