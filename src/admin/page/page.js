// The live page: a snapshot each second, from /events. What clients call themselves is shown as text, never as markup.
"use strict";

const KEPT = 15 * 60;
const AGAIN = 3000;
const PRESSURE_TOP = 1.25;
const SVG = "http://www.w3.org/2000/svg";
const STATES = ["idle", "waiting", "active", "idle_in_transaction", "pinned"];
const byId = (id) => document.getElementById(id);

// Of each pool, by name: its seconds ([active, waiting, size]) and its place on the page.
const pools = new Map();

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function time(seconds) {
  if (seconds < 0.0005) return "–";
  if (seconds < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(0)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// Each cell is a text, or a number that stands to the right.
function fill(id, rows) {
  const body = byId(id).tBodies[0];
  const columns = byId(id).tHead.rows[0].cells;
  if (rows.length === 0) {
    const row = element("tr");
    row.append(element("td", "none", { colspan: columns.length, class: "none" }));
    body.replaceChildren(row);
    return;
  }
  body.replaceChildren(
    ...rows.map((cells) => {
      const row = element("tr");
      row.append(...cells.map((cell, at) => element("td", cell, columns[at].className ? { class: columns[at].className } : {})));
      return row;
    }),
  );
}

function place(name) {
  let pool = pools.get(name);
  if (!pool) {
    const root = element("article", undefined, { class: "pool" });
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${KEPT} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const lines = ["capacity", "demand"].map((kind) => {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("class", kind);
      svg.append(line);
      return line;
    });
    const pressure = element("p", "", { class: "pressure" });
    const facts = element("dl");
    root.append(element("h3", name), pressure, svg, facts);
    pool = { seconds: [], root, svg, lines, pressure, facts };
    pools.set(name, pool);
  }
  return pool;
}

function draw(pool) {
  const seconds = pool.seconds;
  const demand = seconds.map(([active, waiting]) => active + waiting);
  const size = seconds.length ? seconds[seconds.length - 1][2] : 1;
  const most = Math.max(...demand, size * PRESSURE_TOP, 1);
  const height = (value) => (100 - (value / most) * 98).toFixed(1);
  const first = KEPT - seconds.length;
  pool.lines[1].setAttribute("points", demand.map((value, at) => `${first + at},${height(value)}`).join(" "));
  pool.lines[0].setAttribute("points", `0,${height(size)} ${KEPT},${height(size)}`);
  const peak = Math.max(...demand, 0);
  pool.svg.setAttribute("aria-label", `Demand of the last ${Math.ceil(seconds.length / 60)} minutes: at most ${peak} clients for ${size} backends`);
}

function showPools(shown) {
  for (const one of shown) {
    const pool = place(one.name);
    pool.seconds.push([one.active, one.waiting, one.size]);
    pool.seconds.splice(0, pool.seconds.length - KEPT);
    const pressure = (one.active + one.waiting) / Math.max(one.size, 1);
    pool.pressure.textContent = `${Math.round(pressure * 100)} %`;
    pool.pressure.toggleAttribute("data-over", pressure > 1);
    const facts = [
      ["lent", `${one.active} of ${one.size}`], ["waiting", one.waiting],
      ["in transaction, silent", one.in_transaction], ["oldest wait", time(one.oldest_wait)],
      ["pinned", one.pinned], ["needed (10 s)", one.needed],
      ["idle", one.idle], ["free in the database", one.free ?? "unknown"],
      ["clients", one.clients],
    ];
    pool.facts.replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
    draw(pool);
  }
  const names = new Set(shown.map((one) => one.name));
  for (const name of [...pools.keys()].filter((name) => !names.has(name))) pools.delete(name);
  const wanted = shown.map((one) => pools.get(one.name).root);
  const there = [...byId("pools").children];
  if (wanted.length !== there.length || wanted.some((root, at) => root !== there[at])) byId("pools").replaceChildren(...wanted);
}

function show(snapshot) {
  byId("version").textContent = snapshot.version;
  byId("clients").textContent = `${snapshot.clients} of ${snapshot.max_clients} clients`;
  const sentence = byId("sentence");
  // Said again only when it differs by more than its figures, so that a screen reader is not interrupted each second.
  const gist = snapshot.severity + snapshot.sentence.replace(/[\d.]+/g, "#");
  sentence.setAttribute("aria-live", sentence.dataset.gist === gist ? "off" : "polite");
  sentence.dataset.gist = gist;
  sentence.dataset.severity = snapshot.severity;
  if (sentence.textContent !== snapshot.sentence) sentence.textContent = snapshot.sentence;
  document.title = snapshot.severity === "well" ? "pgfunnel" : `${snapshot.severity}: pgfunnel`;
  showPools(snapshot.pools);
  const application = (name) => name || "(none)";
  const count = (caller, state) => caller.clients[STATES.indexOf(state)];
  fill("callers", snapshot.callers.map((caller) => [
    application(caller.application), caller.user,
    ...["waiting", "active", "idle_in_transaction", "pinned", "idle"].map((state) => count(caller, state)),
    time(caller.longest_wait), time(caller.longest_silence),
  ]));
  fill("waiting", snapshot.waiting.map((one) => [one.client, application(one.application), one.pool, one.peer, time(one.seconds)]));
  fill("transactions", snapshot.transactions.map((one) => [
    one.client, application(one.application), one.pool, one.state.replaceAll("_", " "), one.backend ?? "", time(one.seconds),
  ]));
  fill("pins", snapshot.pins.map((one) => [
    one.client, application(one.application), one.pool, one.reasons.join(", "), one.by, time(one.seconds),
  ]));
  fill("errors", snapshot.errors.map((one) => [
    time(one.ago), one.count, one.code, one.side, one.message, application(one.application), one.pool,
  ]));
}

function connection(text, lost) {
  byId("connection").textContent = text;
  byId("connection").toggleAttribute("data-lost", lost);
}

async function begin() {
  try {
    const history = await (await fetch("/history")).json();
    for (const [name, seconds] of Object.entries(history)) place(name).seconds = seconds;
  } catch {
    // The line begins now instead.
  }
  watch();
}

function watch() {
  const events = new EventSource("/events");
  events.onopen = () => connection("live", false);
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = () => {
    connection("connection lost, trying again", true);
    // By itself it tries again only where nothing answers, not behind an answer such as 503 (too many watch).
    if (events.readyState === EventSource.CLOSED) setTimeout(watch, AGAIN);
  };
}

begin();
