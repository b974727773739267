// Figures and times as people read them. Everything here is a function of its argument.

const counts = new Intl.NumberFormat("en-GB");
const few = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });
const moments = new Intl.DateTimeFormat("en-GB", {
  day: "2-digit", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

export const count = (number) => number === null || number === undefined ? "–" : counts.format(number);
export const rate = (number) => number === null || number === undefined ? "–" : number >= 100 ? counts.format(Math.round(number)) : few.format(number);
export const plural = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
export const moment = (microseconds) => microseconds === null || microseconds === undefined ? "–" : moments.format(new Date(microseconds / 1000));

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value < 0.001) return `${few.format(value * 1e6)} µs`;
  if (value < 1) return `${few.format(value * 1e3)} ms`;
  if (value < 120) return `${few.format(value)} s`;
  if (value < 7200) return `${few.format(value / 60)} min`;
  return value < 172800 ? `${few.format(value / 3600)} h` : `${few.format(value / 86400)} d`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = 0;
  while (value >= 1024 && n < units.length - 1) { value /= 1024; n += 1; }
  return `${few.format(value)} ${units[n]}`;
}

// The last line of a traceback says what went wrong.
export function lastLine(cause) {
  const lines = cause.trimEnd().split("\n");
  return lines[lines.length - 1].trim();
}

const STATES = {
  "live": "good", "running": "good", "in use": "good", "serving": "good", "catching-up": "wait",
  "building": "wait", "retrying": "wait", "paused": "wait", "stopping": "wait", "at rest": "calm",
  "at-rest": "calm", "stopped": "bad", "failed": "bad", "closed": "calm", "former": "calm",
};
export const kindOf = (state) => STATES[state] ?? "calm";
