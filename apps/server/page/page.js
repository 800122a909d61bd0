
"use strict";
// Chat, the batch at work, and the check that company changes no answer. What the server sends is
// put in as text, never as HTML; the policy that goes with the page forbids it as well.

const $ = (id) => document.getElementById(id);

function make(tag, name, text = "") {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

// ---- the API ----

class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** What a refused request says, in words. */
async function refusal(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON: the status must do */ }
  const wait = response.headers.get("Retry-After");
  if (wait) message += ` (again in ${wait} s)`;
  if (response.status === 401) askForKey();
  return new ApiError(message, response.status);
}

/** The response to a GET, or to a POST if there is a body. Throws ApiError, or AbortError. */
async function call(path, body, signal) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const request = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The JSON of an event stream's events, up to [DONE]. */
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new ApiError("The connection broke off.");
    });
    if (done) throw new ApiError("The stream ended before the answer did.");
    const blocks = (pending + value).split("\n\n");
    pending = blocks.pop();
    for (const data of blocks.map((block) => block.replace(/^data: ?/, ""))) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message);
      yield event;
    }
  }
}

/** Where an answer gathers, so that what has come outlives a stop. */
const newAnswer = () => ({ text: "", tokens: [], finish: null, usage: null, first: 0, last: 0 });

/** Streams a chat completion into `answer`; onText gets each piece of text as it comes. */
async function streamChat(body, answer, signal, onText = () => {}) {
  const response = await call("/v1/chat/completions",
    { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  for await (const event of readEvents(response)) {
    if (event.usage) answer.usage = event.usage;
    for (const choice of event.choices) {
      answer.last = performance.now();
      answer.first ||= answer.last;
      if (choice.logprobs) answer.tokens.push(...choice.logprobs.content);
      if (choice.finish_reason) answer.finish = choice.finish_reason;
      if (choice.delta.content) {
        answer.text += choice.delta.content;
        onText(choice.delta.content);
      }
    }
  }
  return answer;
}

// ---- settings ----

function askForKey() {
  if (!$("key-row").hidden) return;
  $("key-row").hidden = false;
  $("settings").open = true;
}

/** The settings as fields of a request; null, the wrong one shown, if one is out of its range. */
function readSettings() {
  const form = $("settings-form");
  if (!form.checkValidity()) {
    $("settings").open = true;
    form.reportValidity();
    return null;
  }
  const random = crypto.getRandomValues(new Uint32Array(1))[0];  // ours, so that it can be shown
  return {
    temperature: Number($("temperature").value),
    max_tokens: Number($("max-tokens").value),
    seed: $("seed").value === "" ? random : Number($("seed").value),
  };
}

function withSystem(messages) {
  const content = $("system").value.trim();
  return content ? [{ role: "system", content }, ...messages] : messages;
}

// ---- chat ----

const chat = { messages: [], controller: null };

function addMessage(role, text) {
  const message = make("article", `message ${role}`);
  if (role === "assistant") message.append(make("p", "who", "herd"));
  message.append(make("div", "text", text), make("p", "facts"));
  $("empty").hidden = true;
  $("log").append(message);
  message.scrollIntoView({ block: "end" });
  return message;
}

function showChatError(text) {
  $("chat-error").textContent = text;
  $("chat-error").hidden = !text;
}

function setRunning(controller) {
  chat.controller = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("log").setAttribute("aria-busy", String(controller !== null));
}

/** What is worth knowing of an answer, in one line. */
function factsOf(answer, begun, seed, how) {
  const facts = [];
  const tokens = answer.usage?.completion_tokens;
  if (tokens) facts.push(plural(tokens, "token"));
  if (tokens > 1 && answer.last > answer.first) facts.push(`${((tokens - 1) / (answer.last - answer.first) * 1000).toFixed(0)} a second`);
  if (answer.first) facts.push(`first after ${(answer.first - begun).toFixed(0)} ms`);
  const cached = answer.usage?.prompt_tokens_details?.cached_tokens;
  if (cached) facts.push(`${cached} of ${answer.usage.prompt_tokens} prompt tokens from the cache`);
  facts.push(`seed ${seed}`);
  if (how) facts.push(how);
  return facts.join(" · ");
}

/** Appends text; the log follows it unless its reader has scrolled away. */
function follow(node) {
  const log = $("log");
  return (text) => {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    node.append(text);
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
}

/** Takes a question back that got no answer. */
function takeBack(history, text, ...messages) {
  history.pop();
  if (history !== chat.messages) return;
  for (const message of messages) message.remove();
  $("empty").hidden = history.length > 0;
  if (!$("prompt").value) $("prompt").value = text;
}

async function send(text, settings) {
  const history = chat.messages;  // a new chat may begin meanwhile
  history.push({ role: "user", content: text });
  const question = addMessage("user", text), message = addMessage("assistant", "");
  message.dataset.state = "running";
  setRunning(new AbortController());
  showChatError("");
  const answer = newAnswer(), begun = performance.now(), signal = chat.controller.signal;
  let state = "done", how = "";
  try {
    const body = { ...settings, messages: withSystem(history) };
    await streamChat(body, answer, signal, follow(message.querySelector(".text")));
    if (answer.finish === "length") how = "cut at the most tokens allowed";
  } catch (error) {
    state = signal.aborted ? "stopped" : "failed";
    how = signal.aborted ? "stopped" : "broken off";
    if (!signal.aborted) showChatError(error.message);
  }
  setRunning(null);
  if (!answer.text && state !== "done") return takeBack(history, text, question, message);
  history.push({ role: "assistant", content: answer.text });
  message.querySelector(".facts").textContent = factsOf(answer, begun, settings.seed, how);
  message.dataset.state = state;
  if (document.activeElement === document.body) $("prompt").focus();  // the button that had it is gone
  follow(message)("");
}

function onSend(event) {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || chat.controller) return;
  const settings = readSettings();
  if (!settings) return;
  $("prompt").value = "";
  send(text, settings);
}

function stopAnswer() {
  chat.controller?.abort();
}

function newChat() {
  stopAnswer();
  chat.messages = [];
  $("log").replaceChildren($("empty"));
  $("empty").hidden = false;
  showChatError("");
  $("prompt").focus();
}

// ---- the batch ----

const kHistory = 90;  // seconds in a plot
const kPlots = { rate: "answer_tokens_per_second", rows: "rows", running: "running", waiting: "waiting" };

function svg(parent, tag, name) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  node.setAttribute("class", name);
  parent.append(node);
  return node;
}

/** A value over time in an <svg>: one point a poll, the newest at the right. */
class Plot {
  constructor(node) {
    node.setAttribute("viewBox", `0 0 ${kHistory - 1} 20`);
    node.setAttribute("preserveAspectRatio", "none");
    this.area = svg(node, "path", "area");
    this.line = svg(node, "path", "line");
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > kHistory) this.values.shift();
    const most = Math.max(1, ...this.values), left = kHistory - this.values.length;
    const points = this.values.map((v, i) => `${left + i} ${(19 - 18 * v / most).toFixed(2)}`);
    const line = `M${points.join("L")}`;
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", `${line}V20H${left}Z`);
  }
}

const plots = {};
for (const name of Object.keys(kPlots)) plots[name] = new Plot($(`${name}-plot`));
const pagesBar = {};
for (const name of ["used", "cached"]) {
  pagesBar[name] = svg($("pages-bar"), "rect", name);
  pagesBar[name].setAttribute("height", "100%");
}

function showPages(pages) {
  let left = 0;
  for (const name of ["used", "cached"]) {
    const share = 100 * pages[name] / Math.max(1, pages.total);
    pagesBar[name].setAttribute("x", `${left}%`);
    pagesBar[name].setAttribute("width", `${share}%`);
    left += share;
  }
  for (const name of ["used", "cached", "free"]) $(`pages-${name}`).textContent = pages[name];
}

function showState(state, text) {
  if ($("state").textContent !== text) $("state").textContent = text;  // said once, not every second
  $("state").dataset.state = state;
}

function showStats(stats) {
  $("model").textContent = `${stats.model} · ${stats.backend} · context ${stats.context}`;
  showState(stats.draining ? "waiting" : "up", stats.draining ? "shutting down" : "ready");
  for (const [name, field] of Object.entries(kPlots)) {
    $(name).textContent = Math.round(stats[field]);
    plots[name].add(stats[field]);
    $(`${name}-most`).textContent = `most ${Math.round(Math.max(...plots[name].values))}`;
  }
  showPages(stats.pages);
  $("totals").textContent = `${plural(stats.answer_tokens, "token")} answered`;
}

const getStats = async (signal) => (await call("/stats", null, signal)).json();
let pollTimer = 0, polling = false;

/** Once a second while the page is seen; less often while nobody answers. */
async function poll() {
  clearTimeout(pollTimer);
  if (document.hidden || polling) return;
  polling = true;
  let wait = 1000;
  try {
    showStats(await getStats(AbortSignal.timeout(5000)));
  } catch (error) {
    wait = error.status === 401 ? 0 : 3000;  // 0: not before there is another key
    showState("down", error.status === 401 ? "API key wanted" : "no answer");
  }
  polling = false;
  if (wait) pollTimer = setTimeout(poll, wait);
}

// ---- same answer alone? ----

const kOthers = [
  "Once upon a time",
  "The capital of France is",
  "A recipe for bread: take flour, water, salt and yeast, and",
  "1, 2, 3, 4,",
  "The history of the sea begins long before there were people who could tell of it. In those days",
  "def fibonacci(n):",
];

/** `count` prompts, no two alike. */
const otherPrompts = (count, from) =>
  Array.from({ length: count }, (_, i) => `${i + from}. ${kOthers[(i + from) % kOthers.length]}`);

/** Answers to others until `signal`; each has at least `tokens` to run for. */
function keepCompany(prompts, tokens, signal) {
  const body = { prompt: prompts, max_tokens: tokens + 32, ignore_eos: true, temperature: 1, seed: 1 };
  return prompts.length ? call("/v1/completions", body, signal) : Promise.resolve();
}

/** Sees how many requests run at most until `signal`. */
function watchRunning(signal) {
  const seen = { most: 0, waiting: 0 };
  (async () => {
    while (!signal.aborted) {
      const stats = await getStats(signal);
      seen.most = Math.max(seen.most, stats.running);
      seen.waiting = stats.waiting;
      await pause(100);
    }
  })().catch(() => {});
  return seen;
}

async function waitUntil(condition, seconds) {
  for (const end = performance.now() + 1000 * seconds; !condition() && performance.now() < end;) await pause(50);
}

/** The answer with nobody else, and how many requests ran at most. */
async function askAlone(body, onToken) {
  const controller = new AbortController(), { signal } = controller;
  const seen = watchRunning(signal);
  try {
    return { answer: await streamChat(body, newAnswer(), signal, onToken), most: seen.most };
  } finally {
    controller.abort();
  }
}

/** The same among `count` others, half of whom come once it is being answered. */
async function askTogether(body, count, onToken) {
  const controller = new AbortController(), { signal } = controller;
  const seen = watchRunning(signal), early = Math.ceil(count / 2), answer = newAnswer();
  // Company that is refused ends the check: it would show nothing.
  let refuse;
  const refused = new Promise((_, reject) => { refuse = reject; });
  const invite = (n, from) => keepCompany(otherPrompts(n, from), body.max_tokens, signal).catch(refuse);
  const ask = async () => {
    invite(early, 0);
    await waitUntil(() => seen.most >= early || seen.waiting > 0, 3);
    let late = false;
    await streamChat(body, answer, signal, (text) => {
      if (!late) invite(count - early, early);
      late = true;
      onToken(text);
    });
  };
  try {
    await Promise.race([ask(), refused]);
    return { answer, most: seen.most };
  } finally {
    refused.catch(() => {});
    controller.abort();
  }
}

/** Where two answers part: {at, what}, or null if they are equal to the last bit of every number. */
function firstDifference(a, b) {
  const say = (token) => token ? `${JSON.stringify(token.token)} (${token.logprob})` : "nothing";
  for (let i = 0; i < Math.max(a.tokens.length, b.tokens.length); ++i)
    if (JSON.stringify(a.tokens[i]) !== JSON.stringify(b.tokens[i]))
      return { at: i, what: `token ${i + 1}: alone ${say(a.tokens[i])}, together ${say(b.tokens[i])}` };
  const at = a.tokens.length;
  if (a.text !== b.text) return { at, what: "the text, though the tokens are equal" };
  if (a.finish !== b.finish) return { at, what: `the end: alone ${a.finish}, together ${b.finish}` };
  return null;
}

function showVerdict(state, text) {
  $("verdict").dataset.state = state;
  $("verdict").textContent = text;
}

function showTokens(tokens, difference) {
  const same = (i) => difference === undefined ? "" : !difference || i < difference.at ? "equal" : "different";
  const spans = tokens.map((token, i) => {
    const span = make("span", same(i), token.token);
    span.title = `log-probability ${token.logprob}`;
    return span;
  });
  $("tokens").replaceChildren(...spans);
  $("tokens").hidden = tokens.length === 0;
}

function showComparison(alone, together) {
  const difference = firstDifference(alone.answer, together.answer);
  showTokens(together.answer.tokens, difference);
  if (difference) return showVerdict("different", `Different at ${difference.what}.`);
  const crowd = alone.most > 1 ? ` (somebody else was there: ${alone.most} ran)` : "";
  showVerdict("equal", `Equal: ${plural(alone.answer.tokens.length, "token")}, text and log-probabilities. ` +
    `Alone${crowd}, then with up to ${plural(together.most, "request")} running.`);
}

/** The request that is sent twice; null if a setting is out of its range. */
function readCheck() {
  const settings = readSettings();
  if (!settings) return null;
  const messages = withSystem([{ role: "user", content: $("check-prompt").value }]);
  return { ...settings, max_tokens: Number($("check-tokens").value), messages, logprobs: true, top_logprobs: 3 };
}

async function onCheck(event) {
  event.preventDefault();
  const body = readCheck(), count = Number($("others").value);
  if (!body) return;
  $("check-run").disabled = true;
  showTokens([]);
  const progress = (what) => {
    let text = "";
    showVerdict("running", `${what} …`);
    return (piece) => showVerdict("running", `${what}: ${text += piece}`);
  };
  try {
    const alone = await askAlone(body, progress("Alone"));
    showTokens(alone.answer.tokens);
    showComparison(alone, await askTogether(body, count, progress(`With ${plural(count, "other")}`)));
  } catch (error) {
    showVerdict("failed", error.message);
  }
  $("check-run").disabled = false;
}

// ---- begin ----

$("composer").addEventListener("submit", onSend);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && stopAnswer());
$("stop").addEventListener("click", stopAnswer);
$("new").addEventListener("click", newChat);
$("key").addEventListener("change", poll);
$("settings-form").addEventListener("submit", (event) => event.preventDefault());
$("check-form").addEventListener("submit", onCheck);
document.addEventListener("visibilitychange", poll);
poll();
