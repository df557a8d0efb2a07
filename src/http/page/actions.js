// What an operator may do. Everything that changes something asks first, and says afterwards what became of it.

import { Refusal, accepts, forgetToken, keepToken, send } from "./api.js";
import { h, jobName } from "./dom.js";

/** Says something at the foot of the page, for a while. */
export function notice(text, kind = "info") {
  const note = h("p", { class: `notice ${kind}` }, text, h("button", { type: "button", "aria-label": "Dismiss", onclick: () => note.remove() }, "×"));
  const place = document.getElementById("notices");
  place.append(note);
  while (place.children.length > 4) place.firstChild.remove();
  setTimeout(() => note.remove(), kind === "error" ? 20_000 : 6_000);
}

/**
 * Shows a dialog with fields and answers with what was entered, or null. `work` is done with the values before the dialog closes; what it
 * throws is shown in it.
 */
export function dialog({ title, text, fields = [], confirm, danger = false, keep = "Back", work }) {
  return new Promise((done) => {
    const fault = h("p", { class: "fault", role: "alert" });
    const inputs = fields.map(({ name, label, note, rows, ...more }) => {
      const input = h(rows ? "textarea" : "input", { id: `field-${name}`, name, rows, autocomplete: "off", spellcheck: "false", ...more });
      return [input, h("p", { class: "field" }, h("label", { for: `field-${name}` }, label), input, note && h("small", {}, note))];
    });
    const yes = h("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm);
    const box = h("dialog", { "aria-labelledby": "dialog-title" },
      h("form", { onsubmit: act }, h("h2", { id: "dialog-title" }, title), text && h("p", {}, text), inputs.map(([, field]) => field), fault,
        h("p", { class: "buttons" }, h("button", { type: "button", onclick: () => box.close() }, keep), yes)));
    let answer = null;
    async function act(event) {
      event.preventDefault();
      const values = Object.fromEntries(inputs.map(([input]) => [input.name, input.value]));
      yes.disabled = true;
      fault.textContent = "";
      try {
        answer = { values, result: await work?.(values) };
        box.close();
      } catch (error) {
        fault.textContent = error.message;
      } finally {
        yes.disabled = false;
      }
    }
    const before = document.activeElement;
    box.addEventListener("close", () => {
      box.remove();
      if (before?.isConnected) before.focus?.();
      done(answer);
    });
    document.body.append(box);
    box.showModal();
    // The harmless answer is at hand first where the other one does harm.
    (danger && inputs.length === 0 ? box.querySelector("button[type=button]") : inputs[0]?.[0] ?? yes).focus();
  });
}

async function asking(question, path, method, body, said) {
  const answer = await dialog({
    ...question,
    work: (values) => send(method, path, typeof body === "function" ? body(values) : body),
  });
  if (answer) notice(said);
  return answer?.result ?? null;
}

export function cancelJob(job) {
  return asking({
    title: `Cancel ${jobName(job)}?`, danger: true, confirm: "Cancel the job", keep: "Keep it",
    text: job.state === "queued" ? "It waits and will not start." : "It is under way: its container is stopped. What it has done so far is lost.",
  }, `/jobs/${encodeURIComponent(job.id)}`, "DELETE", undefined, "The job is being cancelled.");
}

export function terminateRunner(runner) {
  return asking({
    title: `End runner ${runner.id.slice(-8)}?`, danger: true, confirm: "End the runner", keep: "Keep it",
    text: runner.job_id ? "It runs a job, which ends with it as failed (runner terminated)." : "It has no job at present.",
  }, `/runners/${encodeURIComponent(runner.id)}`, "DELETE", undefined, "The runner is being ended.");
}

export function quarantineGpu(gpu) {
  return asking({
    title: `Quarantine GPU ${gpu.index}?`, danger: true, confirm: "Quarantine", text: "No job is given it until somebody releases it. A job that has it goes on.",
    fields: [{ name: "reason", label: "Reason", required: true, maxlength: 300 }],
  }, `/gpus/${encodeURIComponent(gpu.id)}/quarantine`, "POST", (values) => ({ reason: values.reason }), "The GPU is in quarantine.");
}

export function releaseGpu(gpu) {
  return asking({
    title: `Release GPU ${gpu.index}?`, confirm: "Release",
    text: `Jobs may be given it again. It was put into quarantine because: ${gpu.quarantine?.reason ?? gpu.reason ?? "no reason is known"}`,
  }, `/gpus/${encodeURIComponent(gpu.id)}/release`, "POST", undefined, "The GPU is released.");
}

export function drainHost(host) {
  return asking({
    title: `Drain ${host.id}?`, danger: true, confirm: "Drain",
    text: "It takes no new work until it is resumed, also after a restart. What runs ends by itself; runners without work end now. Jobs of the API wait.",
    fields: [{ name: "reason", label: "Reason", maxlength: 300, note: "Shown to everybody whose job waits." }],
  }, `/hosts/${encodeURIComponent(host.id)}/drain`, "POST", ({ reason }) => (reason.trim() ? { reason } : {}), "The machine takes no new work.");
}

export function resumeHost(host) {
  return asking({
    title: `Resume ${host.id}?`, confirm: "Resume",
    text: `It takes work again.${host.drain?.reason ? ` It was drained because: ${host.drain.reason}` : ""}`,
  }, `/hosts/${encodeURIComponent(host.id)}/resume`, "POST", undefined, "The machine takes work again.");
}

/** A new job with the same request. */
export async function runAgain(job) {
  const made = await asking({
    title: `Run ${jobName(job)} again?`, confirm: "Run again", text: "This submits a new job with the same request. The old one stays as it is.",
  }, `/jobs/${encodeURIComponent(job.id)}/retry`, "POST", undefined, "A new job was submitted.");
  if (made) location.hash = `#/jobs/${made.id}`;
}

function newJob(values) {
  const given = Object.entries(values).filter(([name, text]) => name !== "command" && text.trim() !== "").map(([name, text]) => [name, text.trim()]);
  const body = Object.fromEntries(given);
  if (body.cpus !== undefined) body.cpus = Number(body.cpus);
  return { ...body, command: ["sh", "-c", values.command] };
}

export async function submitJob() {
  const answer = await dialog({
    title: "New job", confirm: "Submit",
    fields: [
      { name: "command", label: "Command", rows: 3, required: true, note: "Given to sh -c in the image." },
      { name: "image", label: "Image", note: "Empty: the class's." },
      { name: "class", label: "Class", note: "Empty: default." },
      { name: "project", label: "Project" },
      { name: "cpus", label: "CPUs", inputmode: "decimal", pattern: "[0-9]*\\.?[0-9]+", note: "Empty: the class's." },
      { name: "memory", label: "Memory", note: "For example 512MiB. Empty: the class's." },
    ],
    work: (values) => send("POST", "/jobs", newJob(values)),
  });
  if (answer) location.hash = `#/jobs/${answer.result.id}`;
}

/** Asks for a token until the daemon knows it. */
export async function askForToken(refused) {
  forgetToken();
  const answer = await dialog({
    title: "This daemon asks for a token", confirm: "Continue", keep: "Not now",
    text: `${refused ? "The token of this tab is no longer accepted. " : ""}Enter a token of [[http.tokens]]. It is kept in this tab only, until you close it.`,
    fields: [{ name: "token", label: "Token", type: "password", required: true }],
    work: async ({ token }) => {
      if (/[^\x21-\x7e]/.test(token.trim()) || !(await accepts(token.trim()))) throw new Error("The daemon does not know this token. Nothing was kept.");
      keepToken(token.trim());
    },
  });
  if (!answer) throw new Refusal(401, { detail: "no token was given" });
}
