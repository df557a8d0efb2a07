// Hears of everything that happens, by server-sent events that are read from a fetch: that way the token goes in a header and never in an
// address. An event is only a bell; whoever hears it asks for what it shows.

import { Refusal, open } from "./api.js";

/** The daemon gives a sign of life every 15 s. */
const SILENCE_MS = 40_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
/** A page that nobody sees gives its connection back after this time. */
const HIDDEN_MS = 60_000;

const listeners = new Set();
let state = "connecting";
let running = null;
let wakeUp = null;

/** Calls back with `{event}` for each event, `{connected}` when the stream begins (anew), and `{state, wait}` when the connection changes. */
export function listen(callback) {
  listeners.add(callback);
  return () => listeners.delete(callback);
}

function tell(message) {
  for (const listener of [...listeners]) listener(message);
}

function change(next, wait) {
  state = next;
  tell({ state, wait });
}

export function start() {
  if (!running) loop();
  document.addEventListener("visibilitychange", visibility);
  window.addEventListener("online", () => wakeUp?.());
}

export function restart() {
  running?.abort();
  wakeUp?.();
}

let hiding = null;

function visibility() {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => { running?.abort(); }, HIDDEN_MS);
  } else {
    wakeUp?.();
  }
}

async function loop() {
  let wait = FIRST_WAIT_MS;
  for (;;) {
    running = new AbortController();
    let lived = false;
    try {
      if (state !== "lost") change("connecting");
      await read(running, () => {
        lived = true;
        wait = FIRST_WAIT_MS;
        change("live");
        tell({ connected: true });
      });
    } catch (error) {
      if (error instanceof Refusal && error.status === 429) wait = LONGEST_WAIT_MS;
    }
    const hidden = document.hidden && running.signal.aborted;
    change(hidden ? "paused" : "lost", hidden ? undefined : wait);
    await pause(hidden ? null : wait);
    if (!lived) wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

/** Waits, or until somebody comes back to the page or the network does. */
function pause(wait) {
  return new Promise((done) => {
    const timer = wait === null ? null : setTimeout(done, wait);
    wakeUp = () => { clearTimeout(timer); done(); };
  }).finally(() => { wakeUp = null; });
}

/** Reads one stream to its end. */
async function read(controller, begun) {
  const response = await open("/events?after=now", controller.signal);
  begun();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let silence = setTimeout(() => controller.abort(), SILENCE_MS);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(() => controller.abort(), SILENCE_MS);
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) hear(block);
    }
  } finally {
    clearTimeout(silence);
  }
}

function hear(block) {
  const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
  if (!data) return;
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    return;
  }
  tell({ event });
}

/** Keeps a view fresh: does `work` at once, at each bell that is `meant`, and every so often while it is `wanted` and seen. Answers with what asks
 * for it and what ends it. */
export function kept(failed, work, { gap = 1000, every = 5000, meant = ({ event, connected }) => event || connected, wanted = () => true } = {}) {
  const refresh = soon(() => work().catch(failed), gap);
  const stop = listen((message) => { if (meant(message)) refresh(); });
  const timer = setInterval(() => { if (wanted() && !document.hidden) refresh(); }, every);
  refresh();
  return {
    refresh,
    end() {
      stop();
      clearInterval(timer);
      refresh.stop();
    },
  };
}

/** Runs `work` soon and at most once per `gap`, however often it is asked for; never twice at the same time. */
export function soon(work, gap = 1000) {
  let timer = null;
  let last = 0;
  let busy = false;
  let again = false;
  const run = async () => {
    timer = null;
    busy = true;
    again = false;
    try {
      await work();
    } finally {
      busy = false;
      last = performance.now();
      if (again) ask();
    }
  };
  const ask = () => {
    if (busy) again = true;
    else timer ??= setTimeout(run, Math.max(30, last + gap - performance.now()));
  };
  ask.stop = () => { clearTimeout(timer); again = false; };
  return ask;
}
