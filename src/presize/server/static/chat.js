// The chat box: shows the forecast of an answer's length before the answer, and then how the answer keeps to it.

import { count, lengthBar } from "./draw.js";

const $ = (id) => document.getElementById(id);

/** Ids of the answers asked for here, so that the page can mark them. */
export const mine = new Set();

/** ask: fetch with the API key. */
export function setUpChat(ask) {
  let messages = [];
  let running = null; // an AbortController

  const form = $("question");
  const prompt = $("prompt");

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (text && !running) send(text);
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("clear").addEventListener("click", () => {
    running?.abort();
    busy(null);
    messages = [];
    $("talk").replaceChildren();
    prompt.focus();
  });

  function busy(controller) {
    running = controller;
    $("stop").hidden = !controller;
    $("send").hidden = Boolean(controller);
    $("talk").setAttribute("aria-busy", String(Boolean(controller)));
  }

  async function send(text) {
    const controller = new AbortController();
    const most = $("limit").valueAsNumber || null; // null: as the server has it
    const temperature = Number.isNaN($("temperature").valueAsNumber) ? null : $("temperature").valueAsNumber;
    const asked = [...messages, { role: "user", content: text }];
    const view = newExchange(text);
    prompt.value = "";
    busy(controller);
    let answer = "";
    const started = performance.now();
    try {
      const response = await ask("v1/chat/completions", {
        method: "POST",
        signal: controller.signal,
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          messages: asked, stream: true, return_forecast: true, max_tokens: most, temperature,
          stream_options: { include_usage: true, continuous_usage_stats: true },
        }),
      });
      if (!response.ok) throw new Error(await refusal(response));
      let end;
      for await (const chunk of events(response.body)) {
        if (chunk.error) throw new Error(chunk.error.message);
        if (chunk.presize?.latency_s) end = chunk.presize;
        else if (chunk.presize) {
          mine.add(chunk.id);
          view.forecast(chunk.presize, most);
        }
        const piece = chunk.choices[0]?.delta.content ?? "";
        answer += piece;
        if (piece) view.more(piece);
        if (chunk.usage) view.produced(chunk.usage.completion_tokens);
        if (chunk.choices[0]?.finish_reason) view.reason = chunk.choices[0].finish_reason;
      }
      if (!end) throw new Error("The connection ended before the answer did.");
      view.finished(end);
    } catch (error) {
      if (controller.signal.aborted) view.stopped((performance.now() - started) / 1000);
      else view.failed(error instanceof TypeError ? "The server can not be reached." : error.message);
      // to be sent again, perhaps with a change
      if (running === controller && !answer && !prompt.value) prompt.value = text;
    } finally {
      if (running === controller) {
        busy(null);
        if (answer) messages = [...asked, { role: "assistant", content: answer }];
      }
    }
  }
}

/** A question and the answer that comes, at the end of the conversation. */
function newExchange(question) {
  const talk = $("talk");
  const entry = talk.appendChild(document.createElement("article"));
  const add = (name, className, text = "") => {
    const node = entry.appendChild(document.createElement(name));
    node.className = className;
    node.textContent = text;
    return node;
  };
  add("p", "question", question);
  const prediction = add("p", "prediction", "asking for a place …");
  const bar = lengthBar();
  bar.element.hidden = true;
  entry.append(bar.element);
  const text = add("p", "answer");
  const outcome = add("p", "outcome");
  let found = null;
  let tokens = 0;
  const toEnd = () => (talk.scrollTop = talk.scrollHeight);
  const draw = () => {
    if (!found) return;
    const { low, high, most } = found;
    bar.update({ ...found, produced: tokens }, Math.max(high, tokens, Math.min(most ?? 0, high * 1.25)));
  };
  toEnd();
  return {
    reason: "",
    forecast({ predicted_tokens: [predicted], predicted_range: [[low, high]] }, most) {
      found = { predicted, low, high, most };
      prediction.textContent = `forecast: about ${count(predicted)} tokens, ` +
        `with 90 % probability ${count(low)} to ${count(high)}`;
      bar.element.hidden = false;
      outcome.textContent = "waiting for the first token …";
      draw();
      toEnd();
    },
    more(piece) {
      const follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
      text.append(piece);
      if (follows) toEnd();
    },
    produced(total) {
      tokens = total;
      if (tokens) outcome.textContent = `${count(tokens)} tokens …`;
      draw();
    },
    finished({ queue_s: [queue], ttft_s: [first], latency_s: [whole], preemptions }) {
      const verdict = tokens < found.low ? "shorter than the range" : tokens > found.high ? "longer than the range"
        : "within the range";
      outcome.textContent = [
        `${count(tokens)} tokens, ${verdict}${this.reason === "length" ? " (cut off by the limit)" : ""}`,
        `first after ${first.toFixed(2)} s`,
        queue >= 0.05 ? `of which ${queue.toFixed(2)} s waiting` : "",
        `${whole.toFixed(1)} s in all`,
        preemptions ? `preempted ${preemptions}×` : "",
      ].filter(Boolean).join(" · ");
      outcome.classList.add("done");
      toEnd();
    },
    stopped(seconds) {
      outcome.textContent = `stopped after ${count(tokens)} tokens and ${seconds.toFixed(1)} s`;
      toEnd();
    },
    failed(message) {
      if (!found) prediction.remove();
      outcome.textContent = message;
      outcome.classList.add("error");
      toEnd();
    },
  };
}

/** What the server says of a request that it does not take. */
async function refusal(response) {
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("retry-after");
  return (body?.error?.message ?? `The server answered ${response.status}.`) + (wait ? ` Try again in ${wait} s.` : "");
}

/** The objects of a stream of server-sent events, up to its [DONE]. */
async function* events(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
