// The page's frame: which view is shown, how the connection stands, and the token.

import { askForToken, notice, submitJob } from "./actions.js";
import { Refusal, Unreachable, askAgain, forgetToken, onTokenNeeded, token } from "./api.js";
import { h } from "./dom.js";
import { jobView } from "./job.js";
import { jobsView, runnersView } from "./jobs.js";
import { listen, restart, start } from "./live.js";
import { overview } from "./overview.js";

const main = document.getElementById("main");
let end = () => {};
let stopped = false;

function view() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?", 2);
  const job = /^\/jobs\/([^/]+)$/.exec(path);
  if (job) return [jobView, { id: decode(job[1]) }, "Job"];
  if (path === "/jobs") return [jobsView, { query: new URLSearchParams(query) }, "Jobs"];
  if (path === "/runners") return [runnersView, {}, "Runners"];
  return [overview, {}, "Overview"];
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show(first) {
  end();
  stopped = false;
  const [build, options, title] = view();
  document.title = `${title} · Runner Coordinator`;
  const path = location.hash.split("?")[0] || "#/";
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === path || (link.getAttribute("href") === "#/jobs" && path.startsWith("#/jobs/"));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  end = build(main, { ...options, failed });
  if (first !== true) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

/** What a view could not get. A daemon that does not answer is shown by the connection, and the view comes back with it. */
function failed(error) {
  if (error instanceof Unreachable || error.name === "AbortError") return;
  if (error instanceof Refusal && error.status !== 401 && error.status !== 404) {
    notice(error.message, "error");
    return;
  }
  if (stopped) return;
  stopped = true;
  end();
  end = () => {};
  const again = h("button", { type: "button", class: "primary", onclick: () => { askAgain(); restart(); show(); } }, error.status === 401 ? "Enter a token" : "Try again");
  main.replaceChildren(h("section", { class: "card", role: "alert" }, h("h1", {}, error.status === 401 ? "A token is needed" : "That cannot be shown"), h("p", {}, error.message), again));
  if (!(error instanceof Refusal)) throw error;
}

function connection({ state, wait, event, connected }) {
  if (connected) forgetButton();
  if (event || connected || !state) return;
  const place = document.getElementById("connection");
  const words = { live: "live", connecting: "connecting", lost: "disconnected", paused: "paused" }[state];
  const text = state === "lost" && wait ? `${words}, tries again` : words;
  place.dataset.state = state;
  document.body.dataset.connection = state;
  if (place.textContent !== text) place.textContent = text;
}

function forgetButton() {
  document.getElementById("forget").hidden = token() === null;
}

onTokenNeeded(async (refused) => {
  await askForToken(refused);
  forgetButton();
});
listen(connection);
document.getElementById("submit").addEventListener("click", submitJob);
document.getElementById("forget").addEventListener("click", () => {
  forgetToken();
  location.reload();
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
show(true);
start();
