// Requests to the console's API, beside the page wherever that is mounted.

const KEY = "foldline-console-token";

// `foldline console` prints an address with a token behind the #, which no server ever sees.
const given = /^#token=([\w-]+)$/.exec(location.hash);
if (given) {
  sessionStorage.setItem(KEY, given[1]);
  history.replaceState(null, "", location.pathname);
}

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the console answered ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
  }
}

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

let showing;

// What is asked for a page is given up when another one is shown.
export function askFor(signal) {
  showing = signal;
}

export async function get(path, query = {}, signal = showing) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") asked.append(name, each);
    }
  }
  const behind = asked.size ? `?${asked}` : "";
  return answer(await fetch(`api/v1/${path}${behind}`, { headers: headers(), signal, cache: "no-store" }));
}

export async function post(path, body) {
  const sent = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) };
  return answer(await fetch(`api/v1/${path}`, sent));
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
