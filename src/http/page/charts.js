// The last hours as small charts: one line each, with its present and its highest value in words.

import { duration, h, moment, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 64;

const CHARTS = [
  { title: "Waiting jobs", read: (sample) => sample.queued, say: (value) => value.toLocaleString() },
  { title: "Oldest wait", read: (sample) => sample.oldest_wait_seconds, say: duration },
  { title: "Running jobs", read: (sample) => sample.running, say: (value) => value.toLocaleString() },
  { title: "GPUs in use", read: (sample) => sample.gpus_busy, say: (value) => value.toLocaleString(), of: (sample) => sample.gpus_total },
  { title: "Use of busy GPUs", read: (sample) => sample.gpu_percent, say: (value) => `${value} %`, of: () => 100, gpus: true },
];

/** Draws all charts that have something to show. */
export function charts(samples, interval) {
  if (samples.length === 0) return [h("p", { class: "empty" }, "Nothing was measured yet.")];
  const anyGpu = samples.some((sample) => sample.gpus_total > 0);
  return CHARTS.filter((chart) => anyGpu || !(chart.of || chart.gpus)).map((chart) => one(chart, samples, interval));
}

function one(chart, samples, interval) {
  const values = samples.map(chart.read);
  const known = values.filter((value) => value !== null);
  const most = Math.max(0, ...known);
  const scale = Math.max(1, most, ...(chart.of ? [chart.of(samples.at(-1))] : []));
  const peak = values.indexOf(most);
  const now = values.at(-1);
  const said = now === null ? "–" : chart.say(now);
  const label = `${chart.title}: now ${said}, most ${known.length ? chart.say(most) : "–"} since ${new Date(samples[0].at).toLocaleTimeString()}`;
  return h("figure", { class: "chart" },
    h("figcaption", {}, h("span", {}, chart.title), " ", h("strong", {}, said)),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, preserveAspectRatio: "none" },
      svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1, class: "axis" }), runs(samples, values, scale, interval)),
    h("p", { class: "scale" }, moment(samples[0].at), h("span", {}, known.length ? ["most ", chart.say(most), " at ", moment(samples[peak].at)] : ""), h("span", {}, "now")));
}

/** The line, in pieces: where nothing was measured there is no line. */
function runs(samples, values, scale, interval) {
  const [from, to] = [Date.parse(samples[0].at), Date.parse(samples.at(-1).at)];
  const place = (at, value) => {
    const x = to === from ? WIDTH : ((at - from) / (to - from)) * WIDTH;
    return [x.toFixed(1), (HEIGHT - 2 - (value / scale) * (HEIGHT - 8)).toFixed(1)];
  };
  const pieces = [];
  let piece = [];
  let before = null;
  samples.forEach((sample, at) => {
    const time = Date.parse(sample.at);
    if (before !== null && (values[at] === null || time - before > 3000 * interval)) {
      pieces.push(piece);
      piece = [];
    }
    if (values[at] !== null) piece.push(place(time, values[at]));
    before = time;
  });
  pieces.push(piece);
  return pieces.filter((points) => points.length > 0).flatMap((points) => {
    if (points.length === 1) return [svg("circle", { cx: Math.min(points[0][0], WIDTH - 2), cy: points[0][1], r: 2, class: "dot" })];
    const line = points.map((point) => point.join(",")).join(" ");
    const [first, last] = [points[0][0], points.at(-1)[0]];
    return [
      svg("polygon", { points: `${first},${HEIGHT} ${line} ${last},${HEIGHT}`, class: "area" }),
      svg("polyline", { points: line, class: "line" }),
    ];
  });
}
