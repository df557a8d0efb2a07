// One job: where it stands and why, its way so far, what it uses, and its log.

import { cancelJob, runAgain } from "./actions.js";
import { get } from "./api.js";
import { between, bytes, duration, h, jobName, moment, put, state, words } from "./dom.js";
import { kept } from "./live.js";
import { logView } from "./log.js";
import { progressOf } from "./overview.js";
import { phases, timeline } from "./timeline.js";

const ENDED = ["succeeded", "failed", "canceled"];
/** Pages of a job's history that are read: each has 500 entries. */
const MOST_PAGES = 4;

/** Shows the view; answers with what ends it. */
export function jobView(main, { failed, id }) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  const title = h("h1", { tabindex: "-1" }, "Job");
  const places = { actions: h("p", { class: "buttons" }), facts: h("div"), waits: h("div"), way: h("div") };
  const waits = h("section", { class: "card", "aria-labelledby": "title-waits", hidden: true }, h("h2", { id: "title-waits" }, "Why it waits"), places.waits);
  main.replaceChildren(h("div", { class: "title" }, title, places.actions),
    h("section", { class: "card", "aria-labelledby": "title-facts" }, h("h2", { id: "title-facts" }, "State"), places.facts), waits,
    h("section", { class: "card", "aria-labelledby": "title-way" }, h("h2", { id: "title-way" }, "Timeline"), places.way));
  const events = [];
  let log = null;
  let over = false;

  async function history() {
    for (let pages = 0; pages < MOST_PAGES; pages += 1) {
      const page = await get(`${path}/events?limit=500&after=${events.at(-1)?.seq ?? 0}`);
      events.push(...page.events);
      if (page.next_after === null) return;
    }
  }

  const view = kept(failed, async () => {
    const [job] = await Promise.all([get(path), history()]);
    const settled = ENDED.includes(job.state);
    const [runner, explained] = await Promise.all([
      settled || !job.runner_id ? null : get(`/runners/${encodeURIComponent(job.runner_id)}`).catch(() => null),
      job.state === "queued" ? get(`${path}/explain`) : null,
    ]);
    document.title = `${jobName(job)} · ${job.state}`;
    if (title.textContent !== jobName(job)) title.textContent = jobName(job);
    put(places.actions, buttons(job, settled, view.refresh));
    put(places.facts, facts(job, runner, events));
    waits.hidden = !explained;
    if (explained) put(places.waits, explanation(explained));
    put(places.way, phases(job, events), timeline(events));
    if (!log) {
      log = logView(job);
      main.append(log.element);
    }
    over = settled && events.some((event) => event.kind === "runner_removed" || event.kind === "ended");
  }, { gap: 500, every: 3000, meant: ({ event, connected }) => connected || event?.job_id === id, wanted: () => !over });
  return () => {
    view.end();
    log?.end();
  };
}

function buttons(job, settled, changed) {
  const act = (work) => async () => { if (await work(job)) changed(); };
  return [
    settled ? null : h("button", { type: "button", class: "danger", id: "cancel", "data-key": "cancel", disabled: job.cancel_requested_at !== null, onclick: act(cancelJob) },
      job.cancel_requested_at ? "Being cancelled" : "Cancel…"),
    settled && job.source === "api" ? h("button", { type: "button", id: "again", "data-key": "again", onclick: act(runAgain) }, "Run again…") : null,
  ];
}

/** Where the job is in GitLab, if that is an address at all. */
function gitlabLink(job) {
  const { url, job_id: number, project_id: project } = job.gitlab;
  let base;
  try {
    base = new URL(url);
  } catch {
    return null;
  }
  if (!["http:", "https:"].includes(base.protocol)) return null;
  const place = job.project && job.project.includes("/") ? job.project.split("/").map(encodeURIComponent).join("/") : null;
  if (!place && !project) return null;
  const root = base.href.replace(/\/$/, "");
  const href = place ? `${root}/${place}/-/jobs/${number}` : `${root}/projects/${project}`;
  return h("a", { href, target: "_blank", rel: "noopener noreferrer" }, `Job ${number} in GitLab`);
}

function facts(job, runner, events) {
  const request = job.request;
  const progress = events.findLast((event) => event.kind === "progress");
  const rows = [
    ["State", [state(job.state), job.reason ? [" ", h("strong", { id: "reason" }, words(job.reason))] : null,
      job.exit_code === null ? null : ` exit code ${job.exit_code}`]],
    ["What happened", job.detail],
    ["Progress", progress && !ENDED.includes(job.state) ? progressOf(progress) : null],
    ["GitLab", job.gitlab ? [gitlabLink(job), job.gitlab.stage ? ` stage ${job.gitlab.stage}` : "", job.gitlab.ref ? ` on ${job.gitlab.ref}` : ""] : null],
    ["Project", job.project], ["Class", job.class], ["Machine", job.host],
    ["Submitted", moment(job.created_at)], ["Started", job.started_at && moment(job.started_at)],
    ["Ended", job.finished_at && [moment(job.finished_at), job.started_at ? `, after ${duration(between(job.started_at, job.finished_at))}` : ""]],
    ["Tried again", job.not_before && ["not before ", moment(job.not_before)]],
    ["Attempt", job.attempt > 1 ? String(job.attempt) : null],
    ["Devices", job.devices.length ? job.devices.join(", ") : null],
    ["Opened", job.opened?.length ? job.opened.join("; ") : null],
    ["In use", runner ? usage(runner) : null],
    ["Used", job.usage ? used(job.usage) : null],
    ["Asked for", [`${request.cpus} CPU`, request.memory, request.gpus ? `${request.gpus.count} GPU` : null, request.arch, `at most ${request.timeout}`].filter(Boolean).join(", ")],
    ["Repeats", job.retry_of && otherJob(job.retry_of)], ["Run again", job.retried_as && ["as ", otherJob(job.retried_as)]],
    ["Image", request.image], ["Id", h("code", {}, job.id)],
    ["Command", request.command ? h("code", {}, request.command.join(" ")) : null],
  ];
  return h("dl", { class: "facts" }, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) =>
    h("div", { class: name === "Command" ? "wide" : null }, h("dt", {}, name), h("dd", {}, value))));
}

function usage(runner) {
  const parts = [
    runner.cpu_percent === null ? null : `${runner.cpu_percent} % of one CPU`,
    runner.memory_bytes === null ? null : `${bytes(runner.memory_bytes)} of ${runner.memory}`, runner.pids === null ? null : `${runner.pids} processes`,
  ].filter(Boolean);
  return parts.join(", ") || "not measured yet";
}

/** What it used in all, whatever the daemon measures of it. */
function used(all) {
  const say = (name, value) => {
    if (name.endsWith("_bytes")) return `${words(name.slice(0, -6))}: ${bytes(value)}`;
    if (name.endsWith("_seconds")) return `${words(name.slice(0, -8))}: ${duration(value)}`;
    return `${words(name)}: ${value}`;
  };
  return Object.entries(all).filter(([, value]) => typeof value === "number").map(([name, value]) => say(name, value)).join(", ") || null;
}

function explanation(explained) {
  const missing = explained.hosts.flatMap((host) => host.missing.map((one) => h("li", {}, h("strong", {}, host.host), `: ${one.message}`,
    one.holders.length > 0 ? ["; held by ", one.holders.flatMap((holder, at) => [at > 0 ? ", " : "", holderLink(holder)]), one.more_holders ? ` and ${one.more_holders} more` : ""] : null,
    one.unusable.map((gpu) => `; ${gpu.device}: ${gpu.reason}`))));
  const ahead = explained.position;
  return [
    h("p", { id: "explain" }, explained.summary),
    missing.length > 0 ? h("ul", {}, missing) : null,
    h("p", { class: "aside" }, ahead ? `${ahead.more ? "more than " : ""}${ahead.ahead} ahead` : "",
      explained.estimated_start ? ["; starts by ", moment(explained.estimated_start), " at the latest"] : ""),
  ];
}

function holderLink(holder) {
  return holder.job_id ? otherJob(holder.job_id, `holder ${holder.runner_id}`) : `a runner of ${holder.class}`;
}

function otherJob(id, key = `job ${id}`) {
  return h("a", { href: `#/jobs/${encodeURIComponent(id)}`, "data-key": key }, `job ${id.slice(-8)}`);
}
