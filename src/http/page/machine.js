// The machine as a picture: its processors and memory as bars that are divided among the runners, every GPU as a cell.

import { drainHost, quarantineGpu, releaseGpu, resumeHost } from "./actions.js";
import { bytes, count, h, jobName, moment, sizeOf, state } from "./dom.js";

/** Shares that are drawn one by one; the rest of a bar is one piece. */
const MOST_SHARES = 24;

/** One machine. `runners` are those of this machine, `jobs` the jobs under way by id. */
export function machine(host, runners, jobs, changed) {
  const holders = runners.filter((runner) => runner.host === host.id);
  const cpus = (runner) => runner.cpus;
  const memory = (runner) => sizeOf(runner.memory);
  const total = host.memory.total_bytes;
  return h("article", { class: "machine", "aria-label": `Machine ${host.id}` },
    h("h3", {}, host.id, " ", state(host.state), h("span", { class: "aside" }, host.arch ?? "unknown architecture"), turn(host, changed)),
    host.drain ? drained(host.drain) : null,
    bar("CPUs", host.cpus.total, host.cpus.free, holders, cpus, jobs, (amount) => String(Math.round(amount * 100) / 100), Math.min(host.cpus.total, 64)),
    bar("Memory", total, host.memory.free_bytes, holders, memory, jobs, bytes, 0),
    gpus(host, holders, jobs, changed),
    host.gpus.notes.filter((note) => note.weight === "warning").map((note) => h("p", { class: "fault" }, `${note.about}: ${note.text}`)));
}

/** Takes the machine out of work, or back into it. */
function turn(host, changed) {
  const [text, act] = host.drain ? ["Resume", resumeHost] : ["Drain", drainHost];
  const go = async () => { if (await act(host)) changed(); };
  return h("button", { type: "button", class: "small", "data-key": `${text} ${host.id}`, "aria-label": `${text} ${host.id}`, onclick: go }, `${text}…`);
}

function drained(drain) {
  return h("p", { class: "drain" }, "It takes no new work since ", moment(drain.since), drain.by ? `, by ${drain.by}` : "", drain.reason ? `: ${drain.reason}` : "");
}

function labelOf(runner, jobs) {
  if (!runner.job_id) return `${runner.class} (${runner.state})`;
  const job = jobs.get(runner.job_id);
  return job ? jobName(job) : runner.job_id.slice(-8);
}

/** A bar of what there is, with a piece for each who holds some of it. */
function bar(title, total, free, holders, amount, jobs, say, ticks) {
  const shown = holders.slice(0, MOST_SHARES).map((runner) => ({
    size: amount(runner), label: labelOf(runner, jobs), job: runner.job_id, key: `${title} ${runner.id}`, kind: runner.job_id ? "busy" : "idle",
  }));
  const rest = holders.slice(MOST_SHARES);
  if (rest.length > 0) shown.push({ size: rest.reduce((sum, runner) => sum + amount(runner), 0), label: `${rest.length} more`, kind: "busy" });
  const pieces = shown.map((share) => {
    const words = `${share.label}: ${say(share.size)}`;
    const piece = share.job
      ? h("a", { class: "share", "data-kind": share.kind, href: `#/jobs/${share.job}`, title: words, "aria-label": words, "data-key": share.key }, share.label)
      : h("span", { class: "share", "data-kind": share.kind, title: words }, share.label);
    return part(share.size / total, {}, piece);
  });
  const empty = part(Math.max(0, free) / total, { class: "free" });
  const list = h("ul", { class: "bar", "data-ticks": ticks > 1 }, pieces, empty);
  if (ticks > 1) list.style.setProperty("--ticks", String(ticks));
  return h("section", { class: "resource", "aria-label": title },
    h("h4", {}, title, " ", h("span", { class: "aside" }, `${say(Math.max(0, free))} of ${say(total)} free`)), list);
}

/** A piece of a bar, as wide as its share. Shares count in thousands, because a browser gives away only part of a row whose shares are less than one. */
function part(share, attributes, ...children) {
  const piece = h("li", attributes, children);
  piece.style.flexGrow = (1000 * share).toFixed(1);
  return piece;
}

function gpus(host, holders, jobs, changed) {
  const devices = host.gpus.devices;
  if (devices.length === 0) return null;
  const cells = devices.map((gpu) => {
    return h("li", {}, cell(gpu, holders.filter((runner) => runner.devices.includes(gpu.id)), jobs, changed));
  });
  return h("section", { class: "resource", "aria-label": "GPUs" },
    h("h4", {}, "GPUs ", h("span", { class: "aside" }, `${host.gpus.free} of ${host.gpus.total} free${host.gpus.unhealthy ? `, ${host.gpus.unhealthy} unfit` : ""}`)),
    h("ul", { class: "gpus" }, cells));
}

/** Who shares a GPU: each with its part of the memory, and what of it is left. */
function shares(gpu, holders, jobs) {
  const total = Math.max(gpu.memory_bytes ?? 0, holders.reduce((sum, runner) => sum + runner.gpu_share_bytes, 0));
  const shown = holders.slice(0, MOST_SHARES);
  const rest = holders.slice(MOST_SHARES).reduce((sum, runner) => sum + runner.gpu_share_bytes, 0);
  const given = holders.reduce((sum, runner) => sum + runner.gpu_share_bytes, 0);
  const pieces = shown.map((runner) => {
    const said = `${labelOf(runner, jobs)}: ${bytes(runner.gpu_share_bytes)}`;
    const attributes = { class: "share", title: said, "aria-label": said, "data-key": `share ${gpu.id} ${runner.id}` };
    const piece = runner.job_id ? h("a", { ...attributes, href: `#/jobs/${runner.job_id}` }, labelOf(runner, jobs)) : h("span", attributes, labelOf(runner, jobs));
    return part(runner.gpu_share_bytes / total, {}, piece);
  });
  if (rest > 0) pieces.push(part(rest / total, {}, h("span", { class: "share" }, `${holders.length - MOST_SHARES} more`)));
  return [
    h("ul", { class: "bar", "aria-label": `Shares of GPU ${gpu.index}` }, pieces, part((total - given) / total, { class: "free" })),
    h("p", { class: "aside" }, `${count(holders.length, "share")}, ${bytes(total - given)} of ${bytes(total)} left`),
  ];
}

/** Who has a GPU alone, or what it is. */
function alone(gpu, holder, jobs) {
  const job = holder?.job_id;
  return h("p", { class: "gpu-job" }, holder ? (job ? h("a", { href: `#/jobs/${job}`, "data-key": `gpu ${gpu.id}` }, labelOf(holder, jobs)) : labelOf(holder, jobs)) : gpu.model ?? gpu.vendor);
}

function cell(gpu, holders, jobs, changed) {
  const measured = [
    gpu.utilization_percent === null ? null : `${gpu.utilization_percent} %`,
    gpu.memory_used_bytes === null || gpu.memory_bytes === null ? null : `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_bytes)}`,
    gpu.temperature_celsius === null ? null : `${gpu.temperature_celsius} °C`,
  ].filter(Boolean);
  const shared = holders.length > 0 && holders.every((runner) => runner.gpu_share_bytes !== null);
  return h("div", { class: "gpu", "data-state": gpu.state, title: `${gpu.id}\n${gpu.reason ?? ""}` },
    h("p", { class: "gpu-head" }, h("strong", {}, `GPU ${gpu.index}`), " ", state(gpu.state)),
    shared ? shares(gpu, holders, jobs) : alone(gpu, holders[0], jobs),
    measured.length > 0 ? h("p", { class: "aside" }, measured.join(" · ")) : gpu.memory_bytes && !shared ? h("p", { class: "aside" }, bytes(gpu.memory_bytes)) : null,
    gpu.reason ? h("p", { class: "aside" }, gpu.reason) : null,
    gpu.state === "divided" || gpu.state === "unused" ? null : button(gpu, changed));
}

function button(gpu, changed) {
  const [text, act] = gpu.quarantine ? ["Release", releaseGpu] : ["Quarantine", quarantineGpu];
  const go = async () => { if (await act(gpu)) changed(); };
  return h("button", { type: "button", class: "small", "data-key": `${text} ${gpu.id}`, "aria-label": `${text} GPU ${gpu.index}`, onclick: go }, `${text}…`);
}
