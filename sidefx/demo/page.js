// What the server knows is fetched again and again; what it says is only ever shown as text.

const AT_REST_MS = 1000;
const WATCHING_MS = 150;
const START = 16; // percent of a track: where the response has ended
const MODES = ["ok", "slow", "failing", "hung"];

const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Fills the place only when what it shows has changed, so that selections and focus stay.
const shown = new Map();
function fill(place, content, make) {
  const key = JSON.stringify(content);
  if (shown.get(place) === key) return;
  shown.set(place, key);
  place.replaceChildren(...make(content));
}

function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

// --- orders ---------------------------------------------------------------------------------------------------------

async function place(order) {
  await fetch(`/customers/${encodeURIComponent(order.email)}/orders`); // now it is in the cache, and the order will drop it
  const started = performance.now();
  const response = await fetch("/orders", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(order),
  });
  const answer = await response.json();
  $("browser-ms").textContent = duration(performance.now() - started);
  return { response, answer };
}

async function order(times) {
  const buttons = [$("place"), $("place-many")];
  const wanted = Object.fromEntries(new FormData($("order")));
  for (const button of buttons) button.disabled = true;
  try {
    let last;
    for (let i = 0; i < times; i++) last = await place(wanted);
    const { response, answer } = last;
    const text = response.ok ? `order ${answer.number}, ${answer.total} €` : explain(answer.detail);
    $("history").textContent = `POST /orders: ${response.status}, ${text}`;
    await update();
  } catch {
    lost();
  } finally {
    for (const button of buttons) button.disabled = false;
    $("place").focus();
  }
}

function explain(detail) {
  return Array.isArray(detail) ? detail.map((each) => `${each.loc.join(".")}: ${each.msg}`).join("; ") : detail;
}

// --- the timeline ---------------------------------------------------------------------------------------------------

let announced = null;

function showTimeline(state) {
  $("p50").textContent = duration(state.p50);
  $("p99").textContent = duration(state.p99);
  $("responses").textContent = state.responses ? `, last ${state.responses}` : "";
  const order = state.order;
  if (order === null) return;
  $("server-ms").textContent = duration(order.ms);

  const longest = Math.max(...order.landed.map((effect) => effect.ms), order.pending.length ? order.since_ms : 0);
  const end = [1000, 10000, 100000, 1000000].find((each) => each >= longest) ?? longest;
  const at = (ms) => START + ((100 - START - 3) * Math.log10(1 + ms)) / Math.log10(1 + end);

  const ticks = [1, 10, 100, 1000, 10000, 100000].filter((ms) => ms <= end);
  const axis = element("div", { className: "axis", ariaHidden: "true" }, element("span", {}, "response"));
  for (const ms of ticks) {
    const tick = element("span", {}, ms < 1000 ? `${ms} ms` : `${ms / 1000} s`);
    tick.style.left = `${at(ms)}%`;
    axis.append(tick);
  }

  const rows = [row("response", "response", null, `${order.status} in ${duration(order.ms)}`)];
  for (const effect of order.landed) {
    const good = effect.result === "delivered";
    const tries = effect.attempts > 1 ? `, attempt ${effect.attempts}` : "";
    const value = good ? `+${duration(effect.ms)}${tries}` : `${effect.result} after ${duration(effect.ms)}`;
    rows.push(row(effect.sink, good ? "landed" : "bad", at(effect.ms), value, `${effect.name} ${effect.reason}`));
  }
  for (const sink of order.pending) {
    rows.push(row(sink, "waiting", at(order.since_ms), `waiting, ${duration(order.since_ms)}`));
  }
  $("timeline").replaceChildren(axis, ...rows);
  announce(order);
}

function row(name, kind, width, value, title = "") {
  const bar = element("div", { className: `bar ${kind}` });
  if (width !== null) {
    bar.style.left = `${START}%`;
    bar.style.width = `${width - START}%`;
  }
  return element(
    "div",
    { className: "row", title, "data-sink": name, "data-state": kind },
    element("strong", {}, name),
    element("div", { className: "track" }, bar),
    element("span", { className: `value ${kind}` }, value),
  );
}

// Said twice for each order: when it is answered, and when all is over; not at every step.
function announce(order) {
  const stage = `${order.id} ${order.pending.length > 0}`;
  if (announced === stage) return;
  announced = stage;
  if (order.pending.length) {
    $("status").textContent = `Answered ${order.status} in ${duration(order.ms)}; its effects follow.`;
    return;
  }
  const bad = order.landed.filter((effect) => effect.result !== "delivered");
  const effects = `${order.landed.length} effects after it`;
  $("status").textContent = `Answered ${order.status} in ${duration(order.ms)}; ${effects}, ` +
    (bad.length ? `${bad.length} of them not delivered: ${bad.map((effect) => effect.sink).join(", ")}.` : "all delivered.");
}

// --- sinks ----------------------------------------------------------------------------------------------------------

const rowsBySink = new Map();
const turned = new Map(); // switches that were turned here, until the shop says the same: an older answer may still be on its way

function showSinks(state) {
  const body = $("sinks").tBodies[0];
  for (const sink of state.sinks) {
    if (!rowsBySink.has(sink.name)) {
      rowsBySink.set(sink.name, sinkRow(sink));
      body.append(rowsBySink.get(sink.name).row);
    }
    const { cells, radios, meaning } = rowsBySink.get(sink.name);
    for (const [name, cell] of Object.entries(cells)) {
      cell.textContent = name === "p50" ? duration(sink.p50) : String(sink[name]);
      cell.classList.toggle("bad", (name === "failed" && sink.failed > 0) || (name === "breaker" && sink.breaker !== "closed"));
    }
    if (sink.mode === null) continue;
    if (turned.get(sink.name) === sink.mode) turned.delete(sink.name);
    const mode = turned.get(sink.name) ?? sink.mode;
    for (const radio of radios) radio.checked = radio.value === mode;
    meaning.textContent = sink.meanings[mode];
  }
  const { status, reasons } = state.health;
  $("health").textContent = status;
  $("health").classList.toggle("bad", status !== "ok");
  const open = state.sinks.some((sink) => sink.breaker !== "closed");
  const hint = open ? "; an open breaker lets one attempt through after its reset time, 3 s in this demo" : "";
  $("health-reasons").textContent = reasons.join("; ") + hint;
}

function sinkRow(sink) {
  const cells = {};
  for (const name of ["accepted", "delivered", "failed", "waiting", "retried", "p50", "breaker"]) {
    cells[name] = element("td", { className: name === "breaker" ? "" : "number" });
  }
  const radios = [];
  const meaning = element("span", { className: "meaning" });
  const receiver = element("td", { className: "receiver" });
  if (sink.mode === null) {
    meaning.textContent = { cache: "in this process", callables: "functions given to after()" }[sink.name] ?? "";
    receiver.append(meaning);
  } else {
    const modes = element("fieldset", { className: "modes" }, element("legend", {}, `The receiver of ${sink.name} is`));
    for (const mode of MODES) {
      const radio = element("input", { type: "radio", name: `mode-${sink.name}`, value: mode });
      radio.addEventListener("change", () => turn(sink.name, mode));
      radios.push(radio);
      modes.append(element("label", {}, radio, element("span", {}, mode)));
    }
    receiver.append(modes, meaning);
  }
  const title = element("th", { scope: "row" }, sink.name);
  return { row: element("tr", {}, title, receiver, ...Object.values(cells)), cells, radios, meaning };
}

async function turn(sink, mode) {
  turned.set(sink, mode);
  try {
    await fetch("/demo/switch", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ sink, mode }),
    });
    await update();
  } catch {
    turned.delete(sink);
    lost();
  }
}

// --- what has arrived -----------------------------------------------------------------------------------------------

function showArrivals({ audit, analytics, mails, cache }) {
  $("audit-count").textContent = audit.count;
  fill($("audit").tBodies[0], audit.rows, (rows) =>
    rows.map((row) =>
      element(
        "tr",
        {},
        element("td", { className: "number" }, String(row.seq)),
        ...["action", "actor", "target", "outcome"].map((name) => element("td", { title: row[name] ?? "" }, row[name] ?? "")),
      ),
    ),
  );
  $("analytics-count").textContent = analytics.count;
  fill($("analytics"), analytics.events, (events) =>
    events.map(({ event, properties }) =>
      element("li", {}, element("strong", {}, event), element("code", { title: properties }, properties)),
    ),
  );
  $("cache-count").textContent = cache.dropped;
  $("cache-note").textContent = `${cache.entries} cached now, ${cache.hits} hits, ${cache.misses} misses`;
  fill($("cache"), cache.keys, (keys) => keys.map((key) => element("li", {}, element("code", { title: key }, key))));
  showMails(mails);
}

let mailsById = new Map();

function showMails({ count, latest }) {
  $("mails-count").textContent = count;
  $("pick").hidden = $("mail").hidden = latest.length === 0;
  mailsById = new Map(latest.map((mail) => [mail.id, mail]));
  const ids = [...mailsById.keys()];
  fill($("mail-choice"), ids, () => {
    return latest.map((mail) => element("option", { value: mail.id }, `${mail.subject}, to ${mail.to}`));
  });
  openMail();
}

// In a frame that may run nothing, whatever the mail says.
function openMail() {
  const mail = mailsById.get($("mail-choice").value);
  if (mail === undefined || shown.get("mail") === mail.id) return;
  shown.set("mail", mail.id);
  $("mail").srcdoc = mail.html;
}

// --- the loop -------------------------------------------------------------------------------------------------------

function lost() {
  $("gone").hidden = false;
}

let pending = false;

async function update() {
  try {
    const response = await fetch("/demo/state");
    const state = await response.json();
    $("gone").hidden = true;
    showTimeline(state);
    showSinks(state);
    showArrivals(state);
    pending = state.order !== null && state.order.pending.length > 0;
  } catch {
    pending = false;
    lost();
  }
}

async function watch() {
  await update();
  setTimeout(watch, pending ? WATCHING_MS : AT_REST_MS);
}

$("order").addEventListener("submit", (event) => {
  event.preventDefault();
  order(1);
});
$("place-many").addEventListener("click", () => order(20));
$("mail-choice").addEventListener("change", openMail);
watch();
