// The pictures: the pool on a canvas, all else as SVG, whose colours are style.css's.

const SVG = "http://www.w3.org/2000/svg";
const SLOTS = 24; // hues that the eye can tell apart, if every second one is darker
const MOST_SQUARES = 30_000;
const POOL_HEIGHT = 240;

const brief = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (value) => exact.format(value);

const theme = {};

/** Take over style.css's colours: once a picture, for asking makes the browser lay out what has changed until then. */
export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["free", "hatch", "other", "request-light", "request-chroma"]) {
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

/** A hue for every request while it is there: by its id, but far from the hues that others have. */
export class Colours {
  #slots = new Map();

  assign(ids) {
    const present = new Set(ids);
    for (const id of this.#slots.keys()) if (!present.has(id)) this.#slots.delete(id);
    const taken = new Set(this.#slots.values());
    const distance = (slot) => Math.min(SLOTS, ...[...taken].map((other) => {
      const apart = Math.abs(slot - other);
      return Math.min(apart, SLOTS - apart);
    }));
    for (const id of present) {
      if (this.#slots.has(id)) continue;
      const first = hash(id);
      const slots = Array.from({ length: SLOTS }, (_, i) => (first + i) % SLOTS);
      const slot = slots.reduce((best, other) => (distance(other) > distance(best) ? other : best));
      taken.add(slot);
      this.#slots.set(id, slot);
    }
  }

  of(id) {
    const slot = this.#slots.get(id);
    if (slot === undefined) return theme.other;
    const light = theme["request-light"] - (slot % 2) * 0.09;
    return `oklch(${light} ${theme["request-chroma"]} ${(slot * 360) / SLOTS})`;
  }
}

function hash(text) {
  let value = 2166136261;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 16777619);
  return value >>> 0;
}

/** The pool, a square a block; what is booked beyond the held blocks is hatched on the first free ones. */
export function drawBlocks(canvas, live, colours, highlighted) {
  const total = live.blocks.reduce((sum, [, length]) => sum + length, 0);
  const density = window.devicePixelRatio || 1;
  const width = Math.floor(canvas.clientWidth * density);
  if (!width || !total) return null;
  const each = Math.ceil(total / MOST_SQUARES); // blocks that a square stands for
  const squares = Math.ceil(total / each);
  const [columns, rows, side] = fit(squares, width, POOL_HEIGHT * density);
  const gap = side >= 4 * density ? Math.round(density * Math.max(1, side / density / 14)) : 0;
  canvas.width = width;
  canvas.height = rows * side;
  canvas.style.height = `${canvas.height / density}px`;

  const context = canvas.getContext("2d");
  const owners = new Array(squares);
  let at = 0;
  for (const [owner, length] of live.blocks) {
    for (let i = Math.ceil(at / each); i * each < at + length; i++) owners[i] = owner;
    at += length;
  }
  const ids = live.running_requests.map((request) => request.id);
  const fills = ids.map((id) => colours.of(id));
  const hatch = hatching(context, density);
  let booked = Math.round((live.kv_booked_tokens - live.kv_used_tokens) / live.block_size / each);
  owners.forEach((owner, i) => {
    const place = [(i % columns) * side, Math.floor(i / columns) * side, side - gap, side - gap];
    context.fillStyle = owner < 0 ? theme.free : (fills[owner] ?? theme.other); // the server names 200 requests at most
    context.globalAlpha = highlighted && owner >= 0 && ids[owner] !== highlighted ? 0.22 : 1;
    context.fillRect(...place);
    if (owner < 0 && booked-- > 0) {
      context.fillStyle = hatch;
      context.fillRect(...place);
    }
  });
  /** The request of the block at a point of the canvas. */
  return (x, y) => {
    const column = Math.floor((x * density) / side);
    const owner = column < columns ? owners[Math.floor((y * density) / side) * columns + column] : -1;
    return ids[owner] ?? null;
  };
}

/** Columns, rows and side of the largest squares that keep to the height; full rows are worth a little smaller ones. */
function fit(squares, width, height) {
  const sideOf = (rows) => Math.max(2, Math.min(Math.floor(width / Math.ceil(squares / rows)), Math.floor(height)));
  let [rows, full] = [1, 0];
  while (rows < squares && (rows + 1) * sideOf(rows + 1) <= height) {
    rows++;
    if (squares % rows === 0 && (squares / rows) * sideOf(rows) > 0.9 * width) full = rows;
  }
  if (full && sideOf(full) > 0.8 * sideOf(rows)) return [squares / full, full, sideOf(full)];
  const columns = Math.floor(width / sideOf(rows));
  return [columns, Math.ceil(squares / columns), sideOf(rows)];
}

function hatching(context, density) {
  const size = Math.round(5 * density);
  const tile = new OffscreenCanvas(size, size);
  const pen = tile.getContext("2d");
  pen.strokeStyle = theme.hatch;
  pen.lineWidth = 1.3 * density;
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift, size);
    pen.lineTo(shift + size, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

const same = (value) => value;

/** An empty picture with its scales; null while it is not on the screen. xSpan, ySpan: [from, to]. */
function frame(svg, xSpan, ySpan, { left = 40, right = 12, top = 10, bottom = 20, xBend = same, yBend = same } = {}) {
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  if (!width || !height) return null;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const scale = ([from, to], bend, low, high) => (value) => {
    const share = (bend(value) - bend(from)) / (bend(to) - bend(from));
    return Math.round((low + share * (high - low)) * 10) / 10;
  };
  const add = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return svg.appendChild(node);
  };
  return {
    x: scale(xSpan, xBend, left, width - right),
    y: scale(ySpan, yBend, height - bottom, top),
    add, left, right: width - right, top, bottom: height - bottom,
  };
}

function yTicks(f, values, show = (v) => brief.format(v)) {
  for (const value of values) {
    f.add("line", { class: value === 0 ? "base" : "grid", x1: f.left, x2: f.right, y1: f.y(value), y2: f.y(value) });
    f.add("text", { x: f.left - 6, y: f.y(value) + 4, "text-anchor": "end" }, show(value));
  }
}

function xTicks(f, values, show = (v) => brief.format(v)) {
  for (const value of values) {
    f.add("text", { x: f.x(value), y: f.bottom + 15, "text-anchor": "middle" }, show(value));
  }
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");

/** Round numbers from 0 to a bit more than `top`, about `wanted` of them. */
function round(top, wanted) {
  const size = 10 ** Math.floor(Math.log10(top / wanted));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((size) => top / size <= wanted);
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, i) => i * step);
}

/** KV tokens of the next steps, on a square root scale: the near future has more room. */
export function drawBand(svg, live) {
  const { steps, mean, deviation } = live.band;
  const capacity = live.kv_capacity_tokens;
  const high = mean.map((value, i) => value + 2 * deviation[i]);
  const low = mean.map((value, i) => Math.max(value - 2 * deviation[i], 0));
  const lasting = steps[high.findLastIndex((value) => value > capacity / 200)] ?? 0;
  const last = [64, 144, 256, 576, 1024, 2304].find((value) => value >= lasting) ?? 4096;
  const peak = Math.max(capacity, ...high);
  const f = frame(svg, [0, last], [0, peak * 1.08], { left: 46, top: 14, xBend: Math.sqrt });
  if (!f) return;
  const seen = steps.slice(0, steps.findIndex((step) => step >= last) + 1 || steps.length);
  const curve = (values) => seen.map((step, i) => [f.x(step), f.y(values[i])]);
  const area = `${path([...curve(high), ...curve(low).reverse()])}Z`;
  yTicks(f, round(peak, 4).filter((value) => value <= peak * 1.08 && Math.abs(value - capacity) > peak * 0.06));
  xTicks(f, [0, last / 16, last / 4, (last * 9) / 16, last]);
  const line = f.y(capacity);
  // the last point lies beyond the right edge, and what is above the capacity has another colour
  for (const [id, top, bottom] of [["whole", 0, f.bottom], ["under", line, f.bottom], ["above", 0, line]]) {
    const clip = f.add("clipPath", { id: `band-${id}` });
    const box = f.add("rect", { x: f.left, y: top, width: f.right - f.left, height: bottom - top });
    clip.append(box);
    if (id !== "whole") f.add("path", { class: `spread ${id}`, d: area, "clip-path": `url(#band-${id})` });
  }
  f.add("path", { class: "mean", d: path(curve(mean)), "clip-path": "url(#band-whole)" });
  f.add("line", { class: "capacity", x1: f.left, x2: f.right, y1: line, y2: line });
  f.add("text", { class: "strong", x: f.right, y: line - 5, "text-anchor": "end" }, `capacity ${count(capacity)}`);
  f.add("circle", { class: "now", cx: f.x(0), cy: f.y(live.kv_used_tokens), r: 3.5 });
  const most = high.indexOf(Math.max(...high));
  svg.setAttribute("aria-label", live.running
    ? `KV tokens forecast: ${count(mean[0])} now; ${count(mean[most])} ± ${count(2 * deviation[most])} ` +
      `in ${count(steps[most])} steps, at most; the capacity is ${count(capacity)}.`
    : "KV tokens forecast: nothing runs.");
}

/** Lines over the last seconds. series: [class, [[seconds ago, value or null], ...]], the one that matters last. */
export function drawTrend(svg, series, seconds, title) {
  const values = series.flatMap(([, points]) => points.map(([, value]) => value)).filter((value) => value !== null);
  const ticks = round(Math.max(...values, 1), 3);
  const f = frame(svg, [-seconds, 0], [0, ticks.at(-1)], { left: 36, right: 14 });
  if (!f) return;
  yTicks(f, ticks);
  xTicks(f, [-240, -120, 0], (value) => (value ? `−${-value / 60} min` : "now"));
  for (const [name, points] of series) {
    let d = "";
    let broken = true;
    for (const [ago, value] of points) {
      if (value !== null) d += `${broken ? "M" : "L"}${f.x(-ago)} ${f.y(value)}`;
      broken = value === null;
    }
    f.add("path", { class: name, d });
  }
  const [, last] = series.at(-1)[1].at(-1);
  if (last !== null) f.add("circle", { class: "now", cx: f.x(0), cy: f.y(last), r: 3 });
  const most = values.length ? `, at most ${brief.format(Math.max(...values))}` : "";
  svg.setAttribute("aria-label", `${title}: ${last === null ? "nothing" : brief.format(last)} now${most}.`);
}

/** True lengths over predicted ones, both on logarithmic scales; the diagonal is a perfect forecast. */
export function drawScatter(svg, points) {
  svg.setAttribute("aria-label", `True lengths over the forecast ones, of ${count(points.length)} answers.`);
  const values = points.flat().map((value) => Math.max(value, 1));
  const last = Math.max(2, Math.ceil(Math.log10(Math.max(1, ...values))));
  const first = Math.min(last - 2, Math.floor(Math.log10(Math.min(1000, ...values))));
  const span = [10 ** first, 10 ** last];
  const f = frame(svg, span, span, { left: 54, right: 14, bottom: 34, xBend: Math.log10, yBend: Math.log10 });
  if (!f) return;
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  yTicks(f, ticks);
  xTicks(f, ticks);
  const [middle, side] = [(f.left + f.right) / 2, (f.top + f.bottom) / 2];
  f.add("text", { x: middle, y: f.bottom + 30, "text-anchor": "middle" }, "median of the forecast");
  f.add("text", { transform: `translate(12 ${side}) rotate(-90)`, "text-anchor": "middle" }, "true tokens");
  f.add("line", { class: "diagonal", x1: f.x(span[0]), y1: f.y(span[0]), x2: f.x(span[1]), y2: f.y(span[1]) });
  for (const [predicted, tokens] of points) {
    f.add("circle", { class: "answer", cx: f.x(Math.max(predicted, 1)), cy: f.y(Math.max(tokens, 1)), r: 2.2 });
  }
}

/** An answer's length as a bar: what is produced, over the range that was forecast. */
export function lengthBar() {
  const element = document.createElement("div");
  element.className = "length";
  element.setAttribute("role", "img");
  const part = (name) => {
    const node = element.appendChild(document.createElement("i"));
    node.className = name;
    return node;
  };
  const [range, done, median, limit] = ["range", "done", "median", "limit"].map(part);
  /** top: the tokens at the bar's right end. */
  const update = ({ produced, predicted, low, high, most }, top) => {
    const share = (value) => `${Math.min(value / top, 1) * 100}%`;
    range.style.left = share(low);
    range.style.width = share(Math.min(high, top) - Math.min(low, top));
    done.style.width = share(produced);
    median.style.left = share(predicted);
    limit.hidden = !most || most > top;
    limit.style.left = share(most ?? 0);
    const bound = most ? `, at most ${count(most)}` : "";
    element.setAttribute("aria-label", `${count(produced)} tokens of about ${count(predicted)} ` +
      `(${count(low)} to ${count(high)}${bound})`);
  };
  return { element, update };
}

/** The end of an axis that is to show so many tokens: it jumps seldom. */
export const axisTop = (tokens) => {
  const size = 10 ** Math.floor(Math.log10(tokens));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => Math.ceil(factor * size)).find((end) => end >= tokens);
};

/** Where the marks of such an axis go: [tokens, share of the width]. */
export const axisMarks = (top, wanted) =>
  round(top, wanted).filter((value) => value <= top).map((value) => [value, value / top]);
