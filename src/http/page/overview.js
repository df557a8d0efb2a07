// The first view: the machine, what waits, what runs, what ended last, and the last hours.

import { get } from "./api.js";
import { charts } from "./charts.js";
import { between, duration, h, jobLink, moment, put, state, table, words } from "./dom.js";
import { kept } from "./live.js";
import { machine } from "./machine.js";
import { queue } from "./queue.js";

/** Running jobs that are listed. */
const MOST_RUNNING = 50;
const ENDED = 10;
/** Jobs whose progress is looked up when the page opens; later the events tell. */
const MOST_LOOKED_UP = 20;
/** From so many groups on the queue can be filtered. */
const WORTH_FILTERING = 4;
const HISTORY_EVERY_MS = 30_000;

/** Shows the view; answers with what ends it. */
export function overview(main, { failed }) {
  const places = Object.fromEntries(["machines", "queue", "running", "ended", "history"].map((name) => [name, h("div", {})]));
  const part = (title, name) => h("section", { class: `card ${name}`, "aria-labelledby": `title-${name}` }, h("h2", { id: `title-${name}` }, title), places[name]);
  main.replaceChildren(h("h1", { class: "unseen" }, "Overview"),
    part("Machine", "machines"), part("Running", "running"), part("Queue", "queue"), part("Ended last", "ended"), part("Last hours", "history"));
  const filter = h("input", { type: "search", id: "queue-filter", "aria-label": "Filter the queue by project or class", placeholder: "Project or class", autocomplete: "off", hidden: true, oninput: showQueue });
  places.queue.before(filter);
  let waiting = null;
  const progress = new Map();
  const seen = new Set();
  let historyAt = -Infinity;
  let history = { samples: [], interval_seconds: 60 };

  async function work() {
    if (performance.now() - historyAt > HISTORY_EVERY_MS) {
      historyAt = performance.now();
      history = await get("/history");
    }
    const [status, groups, runners, underWay, ended] = await Promise.all([
      get("/status"), get("/queue"), get("/runners?limit=200"), get(`/jobs?state=starting,running&limit=${MOST_RUNNING}`),
      get(`/jobs?state=succeeded,failed,canceled&limit=${ENDED}`),
    ]);
    document.getElementById("service").textContent = status.service;
    const jobs = new Map(underWay.jobs.map((job) => [job.id, job]));
    for (const id of progress.keys()) if (!jobs.has(id)) progress.delete(id);
    lookUp(underWay.jobs.slice(0, MOST_LOOKED_UP));
    put(places.machines, status.hosts.map((host) => machine(host, runners.runners, jobs, view.refresh)));
    waiting = { ...groups, status };
    showQueue();
    put(places.running, running(underWay, status, progress));
    put(places.ended, endedLast(ended.jobs));
    put(places.history, charts([...history.samples, present(status)], history.interval_seconds));
  }

  /** The queue, as far as the filter lets it through; what is filtered does not lose its filter when it shrinks. */
  function showQueue() {
    if (!waiting) return;
    filter.hidden = waiting.groups.length < WORTH_FILTERING && filter.value === "";
    put(places.queue, queue(waiting.groups, waiting.more, waiting.status, filter.value));
  }

  /** Their latest progress, once: it may have been reported before the page was opened. */
  function lookUp(jobs) {
    for (const job of jobs.filter((one) => !seen.has(one.id))) {
      if (seen.size > 1000) seen.clear();
      seen.add(job.id);
      get(`/jobs/${job.id}/events?limit=500`).then(({ events }) => {
        const last = events.findLast((event) => event.kind === "progress");
        if (last && !progress.has(job.id)) {
          progress.set(job.id, last);
          view.refresh();
        }
      }).catch(() => seen.delete(job.id));
    }
  }

  const view = kept(failed, work, {
    meant({ event, connected }) {
      if (event?.kind === "progress" && event.job_id) progress.set(event.job_id, event);
      return event || connected;
    },
  });
  return view.end;
}

/** What is so now, as the last point of each chart. */
function present(status) {
  const devices = status.hosts.flatMap((host) => host.gpus.devices);
  const busy = devices.filter((gpu) => gpu.state === "in_use");
  const known = busy.map((gpu) => gpu.utilization_percent).filter((percent) => percent !== null);
  return {
    at: new Date().toISOString(), queued: status.queue.depth, oldest_wait_seconds: status.queue.oldest_wait_seconds ?? 0,
    running: status.jobs.running + status.jobs.starting, gpus_busy: busy.length,
    gpus_total: status.hosts.reduce((sum, host) => sum + host.gpus.total, 0),
    gpu_percent: known.length ? Math.round(known.reduce((sum, one) => sum + one, 0) / known.length) : null,
  };
}

/** A job's own word about how far it is. */
export function progressOf(event) {
  if (!event) return "";
  const bar = event.percent === null || event.percent === undefined ? null : h("progress", { max: 100, value: event.percent, "aria-label": "Progress" });
  return h("span", { class: "progress" }, bar, bar ? ` ${event.percent} % ` : "", event.message ?? "");
}

function running(page, status, progress) {
  const rows = page.jobs.map((job) => [
    jobLink(job, "running "), state(job.state), job.project ?? "–", job.class,
    job.started_at ? duration(between(job.started_at)) : "–", progressOf(progress.get(job.id)),
  ]);
  const total = status.jobs.running + status.jobs.starting;
  return [
    table("Running jobs", ["Job", "State", "Project", "Class", "Runs for", "Progress"], rows, "Nothing runs."),
    total > rows.length && rows.length > 0 ? h("p", {}, h("a", { href: "#/jobs?state=starting,running" }, `all ${total.toLocaleString()}`)) : null,
  ];
}

function endedLast(jobs) {
  const rows = jobs.map((job) => [
    jobLink(job, "ended "), state(job.state), job.reason ? words(job.reason) : "–", job.project ?? "–", moment(job.finished_at),
    job.started_at ? duration(between(job.started_at, job.finished_at)) : "–",
  ]);
  return table("Jobs that ended last", ["Job", "State", "Reason", "Project", "Ended", "Ran for"], rows, "Nothing has ended yet.");
}
