// A job's way from its arrival to the removal of its container, and how long each part of it took.

import { between, duration, h, moment, words } from "./dom.js";

const SAID = {
  webhook: "GitLab told of it at the webhook", submitted: "accepted and stored", claimed: "claimed; a runner is planned", assigned: "given to a waiting runner",
  image_pull: "image is being fetched", image_ready: "image is there", container_created: "container created", container_started: "container runs",
  runner_idle: "runner waits for work", handed_over: "handed to the runner", cancel_requested: "end asked for", stop_ordered: "runner is being ended",
  progress: "progress", adopted: "found alive after a restart of the daemon", attempt_ended: "attempt ended", retry_scheduled: "will be tried again",
  ended: "ended", runner_removed: "container and all that belonged to it removed",
};

/** What an event has to say beyond its kind. */
function details(event) {
  const parts = [
    event.percent === null || event.percent === undefined ? null : `${event.percent} %`, event.message, event.progress, event.digest,
    event.reason ? words(event.reason) : null, event.detail, event.not_before ? `not before ${new Date(event.not_before).toLocaleTimeString()}` : null,
    event.exit_code === null || event.exit_code === undefined ? null : `exit code ${event.exit_code}`, event.container?.slice(0, 12),
    event.opened?.length ? `opened ${event.opened.join("; ")}` : null, event.kind === "webhook" ? event.status : null,
  ];
  return parts.filter(Boolean).join(" · ");
}

/** Many reports of the same kind in a row are one line, the last. */
function merged(events) {
  const chatty = (event) => event?.kind === "progress" || event?.kind === "image_pull";
  return events.filter((event, at) => !(chatty(event) && events[at + 1]?.kind === event.kind));
}

/** The list of what happened. */
export function timeline(events) {
  const from = events[0]?.at;
  const items = merged(events).map((event) => h("li", { "data-kind": event.kind },
    moment(event.at), " ", h("span", { class: "aside" }, `+${sofar(between(from, event.at))}`), " ",
    h("strong", {}, SAID[event.kind] ?? words(event.kind)), event.attempt > 1 ? ` (attempt ${event.attempt})` : "", " ", h("span", {}, details(event))));
  return items.length > 0 ? h("ol", { class: "timeline" }, items) : h("p", { class: "empty" }, "Nothing is known of its history.");
}

function sofar(seconds) {
  return seconds < 10 ? `${Math.max(0, seconds).toFixed(2)} s` : duration(seconds);
}

/** When GitLab rang for it, if that is what led to it. */
function rang(job, events) {
  const bell = events.find((event) => event.kind === "webhook");
  return bell && Date.parse(bell.at) <= Date.parse(job.created_at) ? bell.at : null;
}

/** Fetching, waiting, starting, running, clearing away: as a bar and in words, of the last attempt. */
export function phases(job, events) {
  const last = (kind) => events.findLast((event) => event.kind === kind)?.at;
  const claimed = last("claimed") ?? last("assigned");
  const started = job.started_at ?? last("container_started");
  const marks = [["fetched in", rang(job, events)], ["waited", job.created_at], ["started in", claimed], ["ran", started], ["cleared away in", last("attempt_ended")], [null, last("runner_removed")]];
  const known = marks.filter(([, at]) => at);
  const open = !job.finished_at;
  const parts = known.flatMap(([name, at], index) => {
    const next = known[index + 1]?.[1] ?? (open ? null : job.finished_at);
    const over = known[index + 1] !== undefined;
    if (!name || (!over && !open)) return [];
    return [{ name, seconds: Math.max(0, between(at, next)), over }];
  });
  const pieces = parts.map((part) => {
    const piece = h("li", { class: "phase", "data-phase": part.name, title: `${part.name} ${sofar(part.seconds)}` },
      `${part.name} ${sofar(part.seconds)}${part.over ? "" : " so far"}`);
    piece.style.flexGrow = String(Math.max(part.seconds, 0.001));
    return piece;
  });
  return h("ul", { class: "phases", "aria-label": "How long each part took" }, pieces);
}
