// The lists: jobs with filters, and runners. A page at a time, so that the queue's length does not matter.

import { terminateRunner } from "./actions.js";
import { get } from "./api.js";
import { between, bytes, duration, h, jobLink, moment, put, state, table, words } from "./dom.js";
import { kept } from "./live.js";

const PAGE = 50;
const STATES = ["queued", "starting", "running", "succeeded", "failed", "canceled"];

/** The list of jobs. `query` is the address's. */
export function jobsView(main, { failed, query }) {
  const list = h("div");
  const pages = h("p", { class: "buttons" });
  main.replaceChildren(h("h1", { tabindex: "-1" }, "Jobs"), filters(query), h("section", { class: "card", "aria-label": "Jobs" }, list, pages));
  return kept(failed, async () => {
    const asked = new URLSearchParams({ limit: PAGE });
    for (const name of ["state", "project", "class", "cursor"]) if (query.get(name)) asked.set(name, query.get(name));
    const { jobs, next_cursor: next } = await get(`/jobs?${asked}`);
    const rows = jobs.map((job) => [
      jobLink(job, "list "), state(job.state), job.reason ? words(job.reason) : "–", job.project ?? "–", job.class, moment(job.created_at), took(job),
    ]);
    put(list, table("Jobs, newest first", ["Job", "State", "Reason", "Project", "Class", "Submitted", "Took"], rows, "There is no such job."));
    put(pages, query.get("cursor") ? pageLink(query, null, "« Newest") : null, next ? pageLink(query, next, "Older ›") : null);
  }).end;
}

function took(job) {
  if (job.started_at) return duration(between(job.started_at, job.finished_at));
  return job.finished_at ? "–" : `waits ${duration(between(job.created_at))}`;
}

function pageLink(query, cursor, text) {
  const next = new URLSearchParams(query);
  next.delete("cursor");
  if (cursor) next.set("cursor", cursor);
  return h("a", { href: `#/jobs?${next}`, class: "button", "data-key": text }, text);
}

function filters(query) {
  const chosen = query.get("state") ?? "";
  const states = h("select", { id: "filter-state", name: "state" }, h("option", { value: "" }, "all"),
    STATES.map((name) => h("option", { value: name, selected: chosen === name }, name)),
    chosen && !STATES.includes(chosen) ? h("option", { value: chosen, selected: true }, chosen) : null);
  const text = (name) => h("input", { id: `filter-${name}`, name, value: query.get(name) ?? "", autocomplete: "off", spellcheck: "false" });
  const form = h("form", { class: "filters", role: "search", onsubmit: show, onchange: show },
    h("label", {}, "State ", states), h("label", {}, "Project ", text("project")), h("label", {}, "Class ", text("class")), h("button", { type: "submit" }, "Show"));
  function show(event) {
    event.preventDefault();
    const next = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim() !== ""));
    location.hash = `#/jobs?${next}`;
  }
  return form;
}

/** The list of runners. */
export function runnersView(main, { failed }) {
  const list = h("div");
  main.replaceChildren(h("h1", { tabindex: "-1" }, "Runners"), h("section", { class: "card", "aria-label": "Runners" }, list));
  const view = kept(failed, async () => {
    const { runners } = await get("/runners?limit=200");
    const rows = runners.map((runner) => [
      h("code", { title: runner.id }, runner.id.slice(-8)), state(runner.state), runner.class,
      runner.job_id ? h("a", { href: `#/jobs/${runner.job_id}`, "data-key": `job of ${runner.id}` }, runner.job_id.slice(-8)) : "–",
      `${runner.cpus} CPU, ${runner.memory}${runner.devices.length ? `, ${runner.devices.length} GPU` : ""}`, inUse(runner), duration(between(runner.created_at)),
      h("button", {
        type: "button", class: "small danger", "data-key": `end ${runner.id}`, disabled: runner.state === "stopping" || runner.state === "lost",
        "aria-label": `End runner ${runner.id.slice(-8)}`, onclick: async () => { if (await terminateRunner(runner)) view.refresh(); },
      }, "End…"),
    ]);
    put(list, table("Runners", ["Runner", "State", "Class", "Job", "Holds", "In use", "Age", "Action"], rows, "There is no runner."));
  });
  return view.end;
}

function inUse(runner) {
  const parts = [runner.cpu_percent === null ? null : `${runner.cpu_percent} %`, runner.memory_bytes === null ? null : bytes(runner.memory_bytes)];
  return parts.filter(Boolean).join(", ") || "–";
}
