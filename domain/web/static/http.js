// Requests to the shop: a change has a key, so that it is sent again after a crash and done once.

const TRIES = 20;
const PAUSE_MS = 400;

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the shop answered ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
  }
}

export async function ask(path, options = {}) {
  return answer(await fetch(path, options));
}

// Sends a change until there is an answer: a connection that breaks says nothing of what was done.
export async function change(method, path, body, { key = newKey(), version = null } = {}) {
  const headers = { "Idempotency-Key": key };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (version !== null) headers["If-Match"] = `"${version}"`;
  const sent = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  for (let left = TRIES; ; left -= 1) {
    try {
      return await answer(await fetch(path, sent));
    } catch (error) {
      const passing = !(error instanceof Refused) || error.status === 503;
      if (!passing || left === 0) throw error;
      await new Promise((done) => setTimeout(done, PAUSE_MS));
    }
  }
}

async function answer(response) {
  if (response.ok) return response.json();
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // The status says enough.
  }
  throw new Refused(response.status, problem);
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
