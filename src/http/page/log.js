// A job's log: followed as it grows, searched, with colours, and to be downloaded. Only the last lines are kept as elements, so that a long log
// costs no more than a short one.

import { open } from "./api.js";
import { blank, overwritten, paint, plain } from "./ansi.js";
import { notice } from "./actions.js";
import { h } from "./dom.js";
import { listen } from "./live.js";

/** Lines that are shown. */
const KEPT = 4000;
/** A log that broke off is read again after this time, or as soon as the connection is back. */
const AGAIN_MS = 3000;
/** Characters of a line that are shown. */
const LONGEST = 4000;
/** Lines that are added in one frame. */
const AT_ONCE = 400;
/** The daemon puts the time before each line. */
const TIME = /^(\S+Z) /;
/** GitLab's runner writes the time before each line where it was told to. */
const STAMP = /^(\d{4}-\d\d-\d\dT[\d:.]+Z) [0-9a-f]{2}[OE][ +]?/;

/** Shows the log of a job; answers with the element and what ends it. */
export function logView(job) {
  const lines = h("div", { class: "lines" });
  const pane = h("div", { class: "log", role: "log", "aria-live": "off", "aria-label": "Log", tabindex: "0", id: "log" }, lines);
  const said = h("span", { class: "aside", role: "status" });
  const found = h("span", { class: "aside", role: "status", id: "log-found" });
  const search = h("input", { type: "search", id: "log-search", "aria-label": "Search the log", placeholder: "Search", autocomplete: "off" });
  const follow = h("input", { type: "checkbox", id: "log-follow", checked: true });
  const times = h("input", { type: "checkbox", id: "log-times" });
  const view = { pen: blank(), rest: "", waiting: [], number: 0, controller: null, frame: 0, ended: false, dropped: 0 };
  const hits = { text: "", at: -1 };

  function scroll() {
    if (follow.checked) pane.scrollTop = pane.scrollHeight;
  }

  function row({ text, at, number }) {
    const stamped = STAMP.exec(text);
    const body = stamped ? text.slice(stamped[0].length) : text;
    const shown = overwritten(body);
    const cut = shown.length > LONGEST;
    const when = stamped?.[1] ?? at;
    const said = job.source === "gitlab" && !stamped ? "received" : "written";
    return h("div", { class: "line", "data-number": number },
      h("span", { class: "when", title: when ? `${said} at ${when}` : null }, when ? new Date(when).toLocaleTimeString([], { hour12: false }) : ""),
      h("span", { class: "text" }, paint(cut ? shown.slice(0, LONGEST) : shown, view.pen), cut ? h("em", {}, ` … ${shown.length - LONGEST} more characters`) : null));
  }

  function flush() {
    view.frame = 0;
    if (view.waiting.length > KEPT) {
      // They would be dropped again at once; only their colours matter, and those seldom reach that far.
      view.waiting.splice(0, view.waiting.length - KEPT);
    }
    const next = view.waiting.splice(0, AT_ONCE).map(row);
    lines.append(...next);
    while (lines.childElementCount > KEPT) lines.firstChild.remove();
    const hidden = view.number - view.waiting.length - lines.childElementCount;
    said.textContent = `${view.number.toLocaleString()} lines${hidden > 0 ? `, the last ${KEPT.toLocaleString()} shown; the download has all` : ""}`;
    if (hits.text) next.forEach(mark);
    scroll();
    if (view.waiting.length > 0) later();
  }

  function later() {
    view.frame ||= requestAnimationFrame(flush);
  }

  function take(text) {
    const parts = (view.rest + text).split("\n");
    view.rest = parts.pop();
    for (const part of parts) {
      const time = TIME.exec(part);
      view.number += 1;
      view.waiting.push({ text: time ? part.slice(time[0].length) : part, at: time?.[1], number: view.number });
    }
    // A log that arrives faster than it is drawn must not fill the memory.
    if (view.waiting.length > 4 * KEPT) view.waiting.splice(0, view.waiting.length - KEPT);
    later();
  }

  function mark(line) {
    line.classList.toggle("hit", hits.text !== "" && plain(line.lastChild.textContent).toLowerCase().includes(hits.text));
  }

  function look() {
    hits.text = search.value.trim().toLowerCase();
    hits.at = -1;
    [...lines.children].forEach(mark);
    const all = lines.querySelectorAll(".hit").length;
    found.textContent = hits.text ? `${all.toLocaleString()} found` : "";
  }

  function go(step) {
    const all = [...lines.querySelectorAll(".hit")];
    if (all.length === 0) return;
    follow.checked = false;
    hits.at = (hits.at + step + all.length) % all.length;
    lines.querySelector(".current")?.classList.remove("current");
    all[hits.at].classList.add("current");
    all[hits.at].scrollIntoView({ block: "center" });
    found.textContent = `${hits.at + 1} of ${all.length.toLocaleString()}`;
  }

  async function read() {
    clearTimeout(view.retry);
    view.controller?.abort();
    const controller = new AbortController();
    Object.assign(view, { controller, pen: blank(), rest: "", waiting: [], number: 0 });
    lines.replaceChildren();
    try {
      const response = await open(`/jobs/${encodeURIComponent(job.id)}/logs?follow=true&timestamps=true`, controller.signal);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        take(value);
      }
      if (view.rest) take("\n");
      view.ended = true;
      if (view.number === 0) said.textContent = "It wrote nothing.";
    } catch (error) {
      if (!controller.signal.aborted) {
        said.textContent = `The log broke off: ${error.message}. It is read again soon.`;
        view.retry = setTimeout(read, AGAIN_MS);
      }
    }
  }

  async function download() {
    try {
      const response = await open(`/jobs/${encodeURIComponent(job.id)}/logs`);
      const address = URL.createObjectURL(await response.blob());
      h("a", { href: address, download: `job-${job.id}.log` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (error) {
      notice(error.message, "error");
    }
  }

  search.addEventListener("input", look);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      go(event.shiftKey ? -1 : 1);
    }
  });
  follow.addEventListener("change", scroll);
  times.addEventListener("change", () => lines.classList.toggle("with-times", times.checked));
  pane.addEventListener("wheel", (event) => { if (event.deltaY < 0) follow.checked = false; }, { passive: true });
  pane.addEventListener("keydown", (event) => { if (["ArrowUp", "PageUp", "Home"].includes(event.key)) follow.checked = false; });

  const stop = listen(({ connected }) => { if (connected && !view.ended) read(); });
  read();
  const element = h("section", { class: "card", "aria-labelledby": "title-log" }, h("h2", { id: "title-log" }, "Log"),
    h("div", { class: "log-tools" }, search,
      h("button", { type: "button", class: "small", "aria-label": "Previous hit", onclick: () => go(-1) }, "↑"),
      h("button", { type: "button", class: "small", "aria-label": "Next hit", onclick: () => go(1) }, "↓"), found,
      h("label", {}, follow, " Follow"), h("label", {}, times, " Times"),
      h("button", { type: "button", class: "small", id: "log-download", onclick: download }, "Download")),
    pane, h("p", {}, said));
  return {
    element,
    end() {
      stop();
      clearTimeout(view.retry);
      view.controller?.abort();
      cancelAnimationFrame(view.frame);
    },
  };
}
