// The one stream of answers. A lost connection is said at once, and tried again, ever more seldom,
// until it is there. It is drawn some times a second: what comes faster is not drawn.
import { say, there } from "./dom.js";

const RETRY_MS_FIRST = 500;
const RETRY_MS_MAX = 10_000;
const AWAY_MS = 30_000;
const DRAW_MS = 150;

let stream = null;
let retry = null;
let retryMs = RETRY_MS_FIRST;
let newest = null;
let drawing = false;
let drawnAt = -DRAW_MS;
let hiddenAt = null;
let show = () => {};
const onState = [];

export function watch(draw) {
  show = draw;
  connect();
}

export function onConnection(hear) {
  onState.push(hear);
}

function connect() {
  clearTimeout(retry);
  retry = null;
  stream?.close();
  const mine = (stream = new EventSource("/live/overview"));
  mine.addEventListener("message", (message) => {
    if (mine !== stream) return;
    try {
      newest = JSON.parse(message.data);
    } catch {
      lost(mine);
      return;
    }
    retryMs = RETRY_MS_FIRST;
    tell("live", "Live");
    if (!drawing) {
      drawing = true;
      setTimeout(() => requestAnimationFrame(draw), drawnAt + DRAW_MS - performance.now());
    }
  });
  // Also where the server answers with an error, after which a browser would not try again.
  mine.addEventListener("error", () => lost(mine));
}

function draw() {
  drawing = false;
  drawnAt = performance.now();
  show(newest);
}

function lost(mine) {
  if (mine !== stream) return;
  mine.close();
  stream = null;
  tell("lost", "Connection lost: what you see is as it was. Trying again …");
  retry = setTimeout(connect, retryMs * (0.75 + Math.random() / 2));
  retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
}

function tell(state, words) {
  const connection = there("connection");
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  say("connection", words, null);
  document.querySelector("main").classList.toggle("stale", state === "lost");
  for (const hear of onState) hear(state);
}

// A machine that slept, or lost its network, need not wait for the next try, nor for the noticing.
addEventListener("online", connect);
addEventListener("offline", () => stream && lost(stream));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    hiddenAt = Date.now();
  } else if (retry !== null || Date.now() - hiddenAt > AWAY_MS) {
    connect();
  }
});
