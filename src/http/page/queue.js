// The queue: what waits, by class and project, and for how long.

import { between, count, duration, h, table } from "./dom.js";

/** Groups that are listed. */
const MOST_GROUPS = 30;

/** The waiting jobs in groups; only those whose project or class has the text in its name, where one is given. */
export function queue(groups, more, status, text = "") {
  const depth = status.queue.depth;
  const oldest = status.queue.oldest_queued_at;
  const wanted = groups.filter((group) => `${group.project ?? "(without a project)"} ${group.class}`.toLowerCase().includes(text.trim().toLowerCase()));
  const most = Math.max(1, ...wanted.map((group) => group.jobs));
  const rows = wanted.slice(0, MOST_GROUPS).map((group) => [
    group.class,
    h("a", { href: link(group), "data-key": `queue ${group.class} ${group.project ?? ""}` }, group.project ?? "(without a project)"),
    [h("meter", { min: 0, max: most, value: group.jobs, "aria-hidden": "true" }), " ", group.jobs.toLocaleString()],
    h("span", { class: "wait" }, duration(between(group.oldest_queued_at))),
  ]);
  const hidden = wanted.length - rows.length;
  return [
    h("p", { class: "summary" }, h("strong", { id: "queue-depth" }, count(depth, "job waits", "jobs wait")),
      oldest ? [", the oldest for ", h("strong", { class: "wait" }, duration(between(oldest)))] : ""),
    table("Waiting jobs by class and project", ["Class", "Project", "Jobs", "Oldest wait"], rows, groups.length > 0 ? "No class or project like that waits." : "Nothing waits."),
    hidden > 0 || more ? h("p", { class: "empty" }, "More waits than is shown here.") : null,
    gitlab(status),
  ];
}

function link(group) {
  const query = new URLSearchParams({ state: "queued", class: group.class });
  if (group.project) query.set("project", group.project);
  return `#/jobs?${query}`;
}

/** How GitLab is asked, and what waits there. */
function gitlab(status) {
  const there = status.gitlab_queue?.projects ?? [];
  const waiting = there.reduce((sum, project) => sum + (project.pending ?? 0), 0);
  const asking = status.gitlab.map((one) => `${one.class}: ${one.state}${one.error ? ` (${one.error})` : ""}`).join("; ");
  if (!asking && there.length === 0) return null;
  return h("p", { class: "aside" }, asking ? `GitLab is asked for work: ${asking}. ` : "", waiting > 0 ? `${count(waiting, "job waits", "jobs wait")} in GitLab.` : "");
}
