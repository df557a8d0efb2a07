// Terminal colours: turns a line with escape sequences into elements. Everything but colours and styles is left out.

import { h } from "./dom.js";

// CSI sequences; operating system commands up to their end; other short escapes; and control characters.
const ESCAPES = /\x1b\[([0-9;:?<=>]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]/g;
const STYLES = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "struck" };
const OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["struck"] };

/** How a terminal stands before its first line. */
export function blank() {
  return { styles: new Set(), front: null, back: null };
}

function extended(codes) {
  const kind = codes.shift();
  if (kind === 5) return shade(codes.shift() ?? 0);
  if (kind !== 2) return null;
  const [red, green, blue] = codes.splice(0, 3).map((part) => Math.min(255, part || 0));
  return `rgb(${red ?? 0} ${green ?? 0} ${blue ?? 0})`;
}

function shade(index) {
  if (index < 16) return index;
  if (index > 231) {
    const grey = 8 + 10 * Math.min(index - 232, 23);
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const part = (divisor) => [0, 95, 135, 175, 215, 255][Math.floor((index - 16) / divisor) % 6];
  return `rgb(${part(36)} ${part(6)} ${part(1)})`;
}

function apply(pen, parameters) {
  const codes = parameters.split(/[;:]/).map((text) => Number(text) || 0);
  while (codes.length > 0) {
    const code = codes.shift();
    if (code === 0) Object.assign(pen, blank());
    else if (STYLES[code]) pen.styles.add(STYLES[code]);
    else if (OFF[code]) OFF[code].forEach((style) => pen.styles.delete(style));
    else if (code >= 30 && code <= 37) pen.front = code - 30;
    else if (code >= 90 && code <= 97) pen.front = code - 82;
    else if (code >= 40 && code <= 47) pen.back = code - 40;
    else if (code >= 100 && code <= 107) pen.back = code - 92;
    else if (code === 38) pen.front = extended(codes);
    else if (code === 48) pen.back = extended(codes);
    else if (code === 39) pen.front = null;
    else if (code === 49) pen.back = null;
  }
}

function piece(text, pen) {
  if (pen.styles.size === 0 && pen.front === null && pen.back === null) return document.createTextNode(text);
  const classes = [...pen.styles].map((style) => `ansi-${style}`);
  if (typeof pen.front === "number") classes.push(`ansi-front-${pen.front}`);
  if (typeof pen.back === "number") classes.push(`ansi-back-${pen.back}`);
  const span = h("span", { class: classes.join(" ") }, text);
  if (typeof pen.front === "string") span.style.color = pen.front;
  if (typeof pen.back === "string") span.style.backgroundColor = pen.back;
  return span;
}

/** A line as nodes; `pen` is how the terminal stands, and is changed. */
export function paint(line, pen) {
  const nodes = [];
  let from = 0;
  for (const found of line.matchAll(ESCAPES)) {
    if (found.index > from) nodes.push(piece(line.slice(from, found.index), pen));
    from = found.index + found[0].length;
    if (found[2] === "m" && !/[?<=>]/.test(found[1])) apply(pen, found[1]);
  }
  if (from < line.length) nodes.push(piece(line.slice(from), pen));
  return nodes;
}

/** The line without its escapes, for those who search. */
export function plain(line) {
  return line.replace(ESCAPES, "");
}

/** What a terminal would show of a line that goes back to its beginning: progress bars do. Colours that were set before count. */
export function overwritten(line) {
  const parts = line.replace(/\r+$/, "").split("\r");
  const last = parts.pop();
  const colours = parts.join("").match(/\x1b\[[0-9;:]*m/g) ?? [];
  return colours.join("") + last;
}
