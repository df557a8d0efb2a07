// Speaks to the daemon. The token, where one is needed, lives as long as the browser's tab and goes nowhere but into the header.

const KEY = "runner-coordinator-token";
const PATIENCE_MS = 20_000;

/** What the daemon refused, in its own words. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? problem?.title ?? `the daemon answered with ${status}`);
    this.status = status;
    this.kind = problem?.type?.split("/").pop() ?? "";
    this.fields = problem?.errors ?? [];
  }
}

/** The daemon could not be reached. */
export class Unreachable extends Error {}

let asked = null;
/** Somebody was asked and did not want to: nobody is asked again until they say so. */
let declined = false;
let askForToken = () => Promise.reject(new Refusal(401));

/** Says who asks people for a token: a function that answers once one is accepted. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Lets people be asked again. */
export function askAgain() {
  declined = false;
}

export function token() {
  return sessionStorage.getItem(KEY);
}

export function keepToken(text) {
  sessionStorage.setItem(KEY, text);
}

export function forgetToken() {
  sessionStorage.removeItem(KEY);
}

function headersWith(given, more) {
  return { ...(given ? { authorization: `Bearer ${given}` } : {}), ...more };
}

async function once(path, { method = "GET", body, signal, given = token(), limited = true } = {}) {
  const timeout = limited ? [AbortSignal.timeout(PATIENCE_MS)] : [];
  const options = {
    method, cache: "no-store", credentials: "omit", redirect: "error",
    headers: headersWith(given, body === undefined ? {} : { "content-type": "application/json" }),
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.any([...timeout, ...(signal ? [signal] : [])]),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("the daemon does not answer");
  }
  if (response.ok) return response;
  throw new Refusal(response.status, await response.json().catch(() => null));
}

/** One request. Asks for a token when the daemon wants one, and then tries again. */
async function request(path, options) {
  const given = token();
  try {
    return await once(path, { ...options, given });
  } catch (error) {
    if (error.status !== 401) throw error;
    // Another request may have got a better one meanwhile.
    if (token() === given) {
      if (declined) throw error;
      asked ??= askForToken(given !== null).catch((refusal) => { declined = true; throw refusal; }).finally(() => { asked = null; });
      await asked;
    }
    return once(path, options);
  }
}

/** Whether the daemon knows a token. */
export async function accepts(candidate) {
  try {
    await once("/queue", { given: candidate });
    return true;
  } catch (error) {
    if (error.status === 401) return false;
    throw error;
  }
}

export async function get(path, signal) {
  return (await request(path, { signal })).json();
}

/** An answer whose body is read as it comes. */
export function open(path, signal) {
  return request(path, { signal, limited: false });
}

export async function send(method, path, body) {
  const response = await request(path, { method, body });
  return response.json().catch(() => null);
}
