// Builds the page's elements. Text becomes text and never markup: there is no way through here to make an element of a string.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element with attributes (`onclick` and the like are listeners) and children; strings become text. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for a picture's parts. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Replaces what is in an element, unless it would look the same: the focus and a selection stay where they are. */
export function put(element, ...children) {
  const fresh = children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
  const holder = document.createElement(element.tagName);
  holder.append(...fresh);
  const [now, next] = [element.childNodes, holder.childNodes];
  if (now.length === next.length && [...next].every((node, at) => node.isEqualNode(now[at]))) return false;
  const kept = focusIn(element);
  element.replaceChildren(...holder.childNodes);
  if (kept) [...element.querySelectorAll("[data-key]")].find((one) => one.dataset.key === kept)?.focus({ preventScroll: true });
  return true;
}

/** What has the focus within an element, by its `data-key`. */
function focusIn(element) {
  return element.contains(document.activeElement) ? document.activeElement.dataset?.key : undefined;
}

/** A table with a caption for those who do not see it and headers that are headers. */
export function table(caption, heads, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const head = h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)));
  const body = rows.map((cells) =>
    h("tr", {}, cells.map((cell, at) => h("td", { "data-head": heads[at] }, Array.isArray(cell) ? cell : [cell]))));
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0", "data-key": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), h("tbody", {}, body)));
}

/** Seconds as people say them. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Seconds from one time to another, or to now. */
export function between(from, to) {
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}

/** A time of day, with the date where it was another day; all of it when pointed at. */
export function moment(text) {
  if (!text) return "–";
  const at = new Date(text);
  const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const today = at.toDateString() === new Date().toDateString();
  return h("time", { datetime: text, title: at.toLocaleString() }, today ? clock : `${at.toLocaleDateString()} ${clock}`);
}

/** Bytes with a binary unit. */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 10 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A text such as `1.5GiB` as bytes. */
export function sizeOf(text) {
  const parts = /^([\d.]+)\s*([KMGT]i?)?B?$/.exec(text ?? "");
  if (!parts) return 0;
  const power = ["K", "M", "G", "T"].indexOf((parts[2] ?? " ")[0]) + 1;
  return Number(parts[1]) * 1024 ** power;
}

/** A word with its amount. */
export function count(amount, one, many = `${one}s`) {
  return `${amount.toLocaleString()} ${amount === 1 ? one : many}`;
}

/** A reason or kind as words: `out_of_memory` is `out of memory`. */
export function words(name) {
  return String(name).replaceAll("_", " ");
}

const SIGNS = {
  queued: "◷", starting: "◔", running: "▶", succeeded: "✓", failed: "✕", canceled: "⊘",
  free: "○", in_use: "●", checking: "◔", quarantined: "⊘", unhealthy: "✕", lost: "?", divided: "▦", unused: "–",
  idle: "○", busy: "●", stopping: "◔", gone: "–", ready: "✓", draining: "◔", drained: "⊘", engine_down: "✕", disk_full: "✕",
};

/** A state: its word and a sign beside its colour. */
export function state(name) {
  return h("span", { class: "state", "data-state": name }, h("span", { "aria-hidden": "true" }, SIGNS[name] ?? "•"), " ", words(name));
}

/** What people call a job. */
export function jobName(job) {
  return job.gitlab?.name ?? (job.request?.command ? commandLine(job.request.command) : job.id.slice(-8));
}

function commandLine(command) {
  const shell = command.length === 3 && /sh$/.test(command[0]) && command[1].startsWith("-");
  const line = (shell ? command[2] : command.join(" ")).trim().split("\n", 1)[0].replace(/^#+\s*/, "");
  return line.length > 60 ? `${line.slice(0, 59)}…` : line || "(nothing)";
}

/** A link to a job's page. */
export function jobLink(job, key = "") {
  return h("a", { href: `#/jobs/${encodeURIComponent(job.id)}`, "data-key": `${key}${job.id}`, title: job.id }, jobName(job));
}
