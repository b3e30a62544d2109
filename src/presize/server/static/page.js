// Asks /live once a second while the page is seen, one request at a time, and lays out what it says.

import { mine, setUpChat } from "./chat.js";
import {
  Colours, axisMarks, axisTop, count, drawBand, drawBlocks, drawScatter, drawTrend, lengthBar, readTheme,
} from "./draw.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 3000; // then /health, which does not wait for the engine, says whether anyone is there
const MEMORY_S = 300;
const RATE_S = 4;
const BREAK_S = 15; // without news: the lines are broken there
const KEY = "presize.key";
const NOTICES = {
  loading: "The model is loading. This page goes on by itself.",
  draining: "The server is stopping: what is in work may end, new requests are refused.",
  busy: "The engine is in a long step; the picture goes on after it.",
  stuck: "One step of the engine takes longer than --stuck-after allows. If it does not end, restart the server; " +
    "its log says what it was doing.",
  dead: "The engine has failed and the server ends. Its log says why; then start it again.",
};

const $ = (id) => document.getElementById(id);
const put = (id, text) => {
  if ($(id).textContent !== text) $(id).textContent = text;
};

const colours = new Colours();
const rows = new Map(); // by request id
let history = []; // {time, tokens, rate, step, running, waiting}
let latest = null;
let highlighted = null;
let blockAt = null;
let timer = 0;
let asking = false;
let lostAt = null;

setUpChat(ask);

const key = () => sessionStorage.getItem(KEY);
const withKey = (init) => ({
  ...init, cache: "no-store", headers: { ...init.headers, ...(key() && { authorization: `Bearer ${key()}` }) },
});

/** fetch with the key, if there is one. */
async function ask(path, init) {
  const response = await fetch(path, withKey(init));
  if (response.status === 401) askForKey();
  return response;
}

function askForKey() {
  const wrong = key() !== null;
  sessionStorage.removeItem(KEY);
  if (latest) return location.reload(); // nothing that was shown stays
  show("locked");
  $("key-form").hidden = false;
  put("key-error", wrong ? "The server does not know this key." : "");
  $("key").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    put("key-error", "A key is made of printable ASCII characters, without spaces.");
    return;
  }
  sessionStorage.setItem(KEY, given);
  $("key").value = "";
  $("key-form").hidden = true;
  look();
});

async function look() {
  clearTimeout(timer);
  if (asking || document.hidden || !$("key-form").hidden) return;
  asking = true;
  const began = performance.now();
  const { response, body } = await patiently();
  asking = false;
  if (!$("key-form").hidden) return; // asked for by the chat meanwhile
  const rest = response ? EVERY_MS - (performance.now() - began) : 2 * EVERY_MS;
  timer = setTimeout(look, Math.max(rest, EVERY_MS / 4));
  lostAt = response ? null : (lostAt ?? new Date());
  if (!response) lost();
  else if (response.ok) take(body);
  else if (response.status === 401) askForKey();
  else show("refused", body.error?.message ?? `The server answered ${response.status}.`);
}

/** What /live says, however long the engine's step takes, as long as the server's other half is there; or nothing. */
async function patiently() {
  const controller = new AbortController();
  const watch = setInterval(async () => {
    try {
      const response = await fetch("health", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS - 500) });
      const { status } = await response.json();
      if (!controller.signal.aborted) show(status === "ok" ? "busy" : status);
    } catch {
      controller.abort();
    }
  }, PATIENCE_MS);
  try {
    const response = await fetch("live", withKey({ signal: controller.signal }));
    return { response, body: await response.json() };
  } catch {
    return {};
  } finally {
    clearInterval(watch);
    controller.abort(); // what /health says from now on is late
  }
}

function show(status, message = NOTICES[status] ?? "") {
  put("status", status);
  $("status").dataset.status = status;
  put("notice", message);
  $("notice").hidden = !message;
  $("picture").classList.toggle("stale", !["ok", "busy", "draining"].includes(status));
}

function lost() {
  if ($("status").dataset.status === "dead") return; // that says more
  show("unreachable", `${location.host} has not answered since ${lostAt.toLocaleTimeString()}; this page tries again ` +
    "every two seconds. Is presize serve still running there? Its log says why it ended. If it runs on another " +
    "machine, is the tunnel or the proxy still up?");
}

function take(live) {
  show(live.status);
  put("model", live.model);
  if (!live.blocks) return; // nothing is loaded, or no longer
  latest = live;
  remember(live);
  $("picture").hidden = false;
  document.title = `${live.running} running · ${live.model}`;
  colours.assign([...live.running_requests, ...live.waiting_requests].map((request) => request.id));
  render();
}

function remember({ time, output_tokens: tokens, running, waiting, step_s: step }) {
  const before = history.at(-1);
  const goes = before && time > before.time && time - before.time < BREAK_S && tokens >= before.tokens;
  if (before && !goes) history.push({ time, tokens, gap: true, rate: null, step: null, running: null, waiting: null });
  // over a few seconds: of a long step's tokens one second has all, the next none
  const unbroken = goes ? history.slice(history.findLastIndex((entry) => entry.gap) + 1) : [];
  const since = unbroken.find((entry) => time - entry.time <= RATE_S) ?? unbroken.at(-1);
  const rate = since ? (tokens - since.tokens) / (time - since.time) : null;
  history.push({ time, tokens, rate, step: running ? step * 1000 : null, running, waiting });
  history = history.filter((entry) => time - entry.time <= MEMORY_S);
}

function render() {
  if (!latest) return;
  readTheme();
  renderFigures(latest);
  renderRows(latest);
  renderBlocks();
  drawBand($("band"), latest);
  renderTrends(latest);
  drawScatter($("scatter"), latest.calibration.points);
}

function renderFigures(live) {
  const { kv_used_tokens: used, kv_booked_tokens: booked, kv_capacity_tokens: capacity, calibration } = live;
  const share = (tokens) => `${Math.round((100 * tokens) / capacity)} %`;
  const rate = history.at(-1).rate;
  put("running", count(live.running));
  put("waiting", count(live.waiting));
  put("rate", rate === null ? "–" : count(rate));
  put("output-tokens", count(live.output_tokens));
  put("preemptions", count(live.preemptions));
  put("used", count(used));
  put("used-share", share(used));
  put("booked", count(booked));
  put("booked-share", share(booked));
  put("capacity", count(capacity));
  put("pool", `${count(capacity / live.block_size)} blocks of ${live.block_size} tokens`);
  put("step-length", `a step takes about ${milliseconds(live.step_s)}`);
  put("step", live.running ? `${milliseconds(live.step_s)} now` : "");
  put("answers", calibration.answers ? `last ${count(calibration.answers)} answers` : "no answer has ended yet");
  put("within", calibration.within_90 === null ? "–" : `${Math.round(100 * calibration.within_90)} %`);
  const error = calibration.median_error_tokens;
  put("error", error === null ? "–" : `${count(error)} tokens`);
  const choices = { policy: live.policy, order: live.order, predictor: live.predictor };
  $("choices").replaceChildren(...Object.entries(choices).map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(cell("dt", "", name), cell("dd", "", value));
    return pair;
  }));
}

const milliseconds = (seconds) => `${(seconds * 1000).toPrecision(2) * 1} ms`;

function renderBlocks() {
  blockAt = drawBlocks($("blocks"), latest, colours, highlighted);
  $("blocks").setAttribute("aria-label", `KV pool: ${count(latest.kv_used_tokens)} tokens held by ` +
    `${count(latest.running)} requests, ${count(latest.kv_booked_tokens)} booked, of ` +
    `${count(latest.kv_capacity_tokens)}.`);
}

function renderTrends({ time }) {
  const points = (name) => history.map((entry) => [time - entry.time, entry[name]]);
  drawTrend($("rate-chart"), [["line", points("rate")]], MEMORY_S, "Tokens per second");
  drawTrend($("step-chart"), [["line", points("step")]], MEMORY_S, "Milliseconds of a step");
  drawTrend($("count-chart"), [["line other", points("waiting")], ["line", points("running")]], MEMORY_S,
    "Waiting and running requests");
}

function renderRows(live) {
  const requests = [...live.running_requests, ...live.waiting_requests];
  const waiting = new Set(live.waiting_requests);
  const furthest = Math.max(1, ...requests.map((r) => Math.max(r.predicted_high, r.output_tokens)));
  const top = axisTop(furthest);
  const present = new Set(requests.map((request) => request.id));
  for (const [id, row] of rows) {
    if (present.has(id)) continue;
    row.element.remove();
    rows.delete(id);
  }
  requests.forEach((request, place) => {
    if (!rows.has(request.id)) rows.set(request.id, newRow(request.id));
    const row = rows.get(request.id);
    const next = $("rows").children[place];
    if (next !== row.element) $("rows").insertBefore(row.element, next ?? null);
    row.update(request, waiting.has(request), top);
  });
  const marks = requests.length ? axisMarks(top, $("axis").clientWidth < 180 ? 2 : 4) : [];
  $("axis").replaceChildren(...marks.map(([tokens, share]) => {
    const mark = cell("span", "", count(tokens));
    mark.style.left = `${share * 100}%`;
    mark.style.transform = `translateX(${share * -100}%)`; // the first and the last one stay inside
    return mark;
  }));
  const [there, listed] = [live.running + live.waiting, requests.length];
  put("shown", listed < there ? `${count(listed)} of ${count(there)} are shown` : "");
  $("nothing").hidden = listed > 0;
}

function newRow(id) {
  const element = document.createElement("tr");
  element.addEventListener("mouseenter", () => highlight(id));
  const name = element.appendChild(cell("th", ""));
  const state = cell("span", "state");
  name.scope = "row";
  name.title = id;
  name.append(cell("i", "chip"), cell("code", "", shortName(id)), state);
  const bar = lengthBar();
  element.appendChild(cell("td", "bar")).append(bar.element);
  const numbers = ["number", "number", "number wide", "number wide", "number wide"].map((className) =>
    element.appendChild(cell("td", className)));
  const update = (request, waits, top) => {
    const { output_tokens: produced, predicted_tokens: predicted, max_tokens: most } = request;
    const { predicted_low: low, predicted_high: high } = request;
    const doing = waits ? "waiting" : request.prefilling ? "prefill" : "";
    const preempted = request.preemptions && `preempted ${request.preemptions}×`;
    state.textContent = [isMine(id) && "asked here", doing, preempted].filter(Boolean).join(", ");
    element.classList.toggle("waits", waits);
    element.classList.toggle("lit", id === highlighted);
    element.style.setProperty("--colour", colours.of(id));
    bar.update({ produced, predicted, low, high, most }, top);
    const range = `${count(low)}–${count(high)}`;
    const texts = [count(produced), count(predicted), range, count(most), age(request.age_s)];
    texts.forEach((text, i) => (numbers[i].textContent = text));
  };
  return { element, update };
}

function cell(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

/** The engine's id is CHOICE:KIND-HEX-PROMPT. */
function shortName(id) {
  const [, choice, hex, prompt] = /^(\d+):[a-z]+-([0-9a-f]+)-(\d+)$/.exec(id) ?? [null, "0", id, "0"];
  return hex.slice(0, 6) + (choice === "0" && prompt === "0" ? "" : `.${prompt}.${choice}`);
}

const isMine = (id) => mine.has(id.slice(id.indexOf(":") + 1, id.lastIndexOf("-")));
const age = (seconds) => (seconds < 100 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min`);

function highlight(id) {
  if (id === highlighted || !latest) return;
  highlighted = id;
  renderBlocks();
  for (const [other, row] of rows) row.element.classList.toggle("lit", other === id);
}

$("blocks").addEventListener("mousemove", (event) => highlight(blockAt?.(event.offsetX, event.offsetY) ?? null));
for (const id of ["blocks", "rows"]) $(id).addEventListener("mouseleave", () => highlight(null));
document.addEventListener("visibilitychange", look);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
new ResizeObserver(render).observe($("picture"));
put("base-url", new URL("v1", location.href).href);
look();
