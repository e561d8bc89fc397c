// The status page of pgvane: shows what /events tells, and asks for what an operator's buttons say.
// Names come from etcd: everything is put in as text, and the page's policy forbids anything else.
"use strict";

// Silence after which the stream counts as lost; it speaks every second.
const SILENCE_MS = 4000;
const RETRY_MS = 1000;
// Over how long rates are means.
const WINDOW_MS = 10000;
// Rows of the table of sessions; a browser is no place for a hundred thousand.
const ROWS = 200;
const SAID_MS = 8000;
const TOKEN = "pgvane-token";

const byId = (id) => document.getElementById(id);

// ---- Words ----

const counts = new Intl.NumberFormat("en");
const count = (n) => counts.format(n);

function rate(n) {
  if (n === null) return "–";
  return n >= 100 ? count(Math.round(n)) : n === 0 ? "0" : n.toFixed(n < 10 ? 2 : 1);
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

function time(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return `${minutes} min ${whole % 60} s`;
}

function clock(ms) {
  const at = new Date(ms);
  const two = (n) => String(n).padStart(2, "0");
  const today = at.toDateString() === new Date().toDateString();
  const day = today ? "" : `${two(at.getMonth() + 1)}-${two(at.getDate())} `;
  return `${day}${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

const words = (label) => label.replaceAll("_", " ");

// ---- Putting it in ----

// Only what differs is touched, so that selections and focus live on.
function text(element, value) {
  const string = String(value ?? "");
  if (element.textContent !== string) element.textContent = string;
}

function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

// `kind`: one of good, warn, bad, blue, or none.
function mark(element, value, kind, base = "pill") {
  text(element, value);
  const classes = `${base} ${kind}`.trim();
  if (element.className !== classes) element.className = classes;
}

function fields(element) {
  const found = {};
  for (const field of element.querySelectorAll("[data-f]")) found[field.dataset.f] = field;
  return found;
}

// What `each` has made, by parent.
const made = new WeakMap();

// Makes the children of `parent` be those of `items`, in order, one element per key for as long as the key is there.
function each(parent, items, keyOf, template, update) {
  const old = made.get(parent) ?? new Map();
  const rows = new Map();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let row = old.get(key);
    if (!row) {
      const element = byId(template).content.firstElementChild.cloneNode(true);
      row = { element, fields: fields(element) };
    }
    rows.set(key, row);
    if (row.element === place) place = place.nextElementSibling;
    else parent.insertBefore(row.element, place);
    row.item = item;
    update(row.fields, item, row);
  }
  for (const [key, row] of old) if (rows.get(key) !== row) row.element.remove();
  made.set(parent, rows);
}

// ---- The picture ----

function draw(status) {
  document.title = status.ready ? "pgvane: ready" : "pgvane: not ready";
  text(byId("version"), status.version);
  mark(byId("phase"), status.phase, status.phase === "serving" ? "" : "warn");
  mark(byId("ready"), status.ready ? "ready" : "not ready", status.ready ? "good" : "bad");
  text(byId("why"), status.not_ready && `Not ready: ${status.not_ready}`);
  show(byId("why"), !status.ready);
  text(byId("process"), `process ${status.pid}, up for ${time(status.uptime_ms)}`);
  each(byId("clusters"), status.clusters, (c) => c.name, "cluster-template",
    (f, c) => drawCluster(f, c, status.takes_commands));
  each(byId("listeners"), status.listeners, (l) => l.name, "listener-template",
    (f, l) => drawListener(f, l, status));
  each(byId("ends"), status.listeners, (l) => l.name, "ends-template", drawEnds);
  each(byId("timeline"), [...status.timeline].reverse(), (e) => `${status.pid}/${e.number}`, "entry-template", drawEntry);
  text(byId("timeline-note"), status.timeline.length === 0 ? "nothing has happened yet" : "");
  for (const card of ["listeners-card", "timeline-card"]) show(byId(card), true);
  show(byId("sessions-card"), status.takes_commands);
  show(byId("sign"), status.takes_commands);
}

const STANDING = {
  proven: ["proven by etcd", "good-text"],
  vouched: ["its agent vouches", "warn-text"],
  suspended: ["suspended: the proxy was frozen", "warn-text"],
  lost: ["lost", "bad-text"],
  never_seen: ["etcd has not answered yet", "warn-text"],
};

const ON_LOSS = { hold: "hold while its agent vouches", fence: "cut at the lease’s end" };

function drawCluster(f, cluster, takesCommands) {
  text(f.name, cluster.name);
  const primary = cluster.primary;
  if (primary) {
    mark(f.serving, `${primary.name} serves at ${primary.host}:${primary.port}`, "", "serving");
  } else {
    const since = cluster.no_primary_for_ms === null ? "" : ` (for ${time(cluster.no_primary_for_ms)})`;
    mark(f.serving, `No primary: ${cluster.no_primary}${since}`, "bad-text", "serving");
  }
  mark(f.store, cluster.store_up ? "etcd up" : "etcd down", cluster.store_up ? "good" : "bad");
  const silent = cluster.store_down_for_ms === null ? "" : ` for ${time(cluster.store_down_for_ms)}`;
  text(f.store_error, cluster.store_error && `etcd has not answered${silent}: ${cluster.store_error}`);
  show(f.store_error, cluster.store_error !== null);
  text(f.leader, cluster.leader ?? "free");
  text(f.epoch, cluster.epoch ?? "–");
  const isFree = cluster.leader === null && cluster.standing === "proven";
  const [standing, kind] = isFree ? ["nobody leads", "warn-text"] : (STANDING[cluster.standing] ?? [words(cluster.standing), ""]);
  mark(f.standing, standing, kind, "");
  text(f.age, cluster.age_ms === null ? "never" : `${time(cluster.age_ms)} ago`);
  text(f.on_store_loss, ON_LOSS[cluster.on_store_loss] ?? cluster.on_store_loss);
  text(f.outage, cluster.last_outage_ms === null ? "none since the start" : time(cluster.last_outage_ms));
  each(f.members, cluster.members, (m) => m.name, "member-template",
    (fields, member, row) => drawMember(fields, cluster, member, row, takesCommands));
  show(f.malformed_box, cluster.malformed.length > 0);
  const broken = cluster.malformed.flatMap(({ key, reason }) => [["dt", key], ["dd", reason]]);
  if (JSON.stringify(broken) !== f.malformed.shown) {
    f.malformed.shown = JSON.stringify(broken);
    f.malformed.replaceChildren(...broken.map(([tag, value]) => {
      const element = document.createElement(tag);
      element.textContent = value;
      return element;
    }));
  }
}

function drawMember(f, cluster, member, row, takesCommands) {
  const serves = cluster.primary?.name === member.name;
  text(f.name, member.name);
  text(f.address, member.host === null ? "no address" : `${member.host}:${member.port}`);
  // A role is what a member is, not how it fares.
  mark(f.role, member.is_sync ? `${member.role}, sync` : words(member.role), serves ? "blue" : "", "chip");
  const failed = /failed|crashed/.test(member.state);
  const usual = member.state === "running" || member.state === "streaming";
  mark(f.state, member.state, failed ? "bad-text" : usual ? "" : "warn-text", "");
  const set = member.admission;
  text(f.lag, member.lag_bytes === null ? "–" : bytes(member.lag_bytes));
  if (member.takes_reads && set !== "enabled") mark(f.reads, `no: ${set}`, "faint", "");
  else if (member.refused) mark(f.reads, "refused a session just now", "warn-text", "");
  else if (member.takes_reads) mark(f.reads, "takes reads", "good-text", "");
  else mark(f.reads, serves ? "no: takes writes" : `no: ${member.no_reads}`, "faint", "");
  text(f.sessions, count(member.sessions));
  mark(f.admission, set, set === "enabled" ? "" : "chip warn", "");
  const offers = { enable: set !== "enabled", drain: set === "enabled", disable: set !== "disabled" };
  for (const button of row.element.querySelectorAll("[data-do]")) {
    show(button, takesCommands && offers[button.dataset.do]);
    button.onclick = () => admit(cluster.name, row.item, button.dataset.do);
  }
}

// Totals as they were, by listener.
let samples = new Map();
let sampledPid = null;

// Means over the window; null until there are two samples.
function rates(listener, status) {
  if (sampledPid !== status.pid) {
    samples = new Map();
    sampledPid = status.pid;
  }
  const seen = samples.get(listener.name) ?? [];
  const now = {
    at: status.uptime_ms,
    new: listener.sessions_total,
    to_client: listener.to_client_bytes,
    to_server: listener.to_server_bytes,
  };
  seen.push(now);
  while (seen.length > 2 && seen[1].at <= now.at - WINDOW_MS) seen.shift();
  samples.set(listener.name, seen);
  const first = seen[0];
  const seconds = (now.at - first.at) / 1000;
  const mean = (what) => (seconds > 0 ? (now[what] - first[what]) / seconds : null);
  return { new: mean("new"), to_client: mean("to_client"), to_server: mean("to_server") };
}

function drawListener(f, listener, status) {
  const per = rates(listener, status);
  text(f.name, listener.name);
  text(f.cluster, `cluster ${listener.cluster}`);
  mark(f.role, words(listener.role), listener.role === "primary" ? "blue" : "", "chip");
  text(f.listen, listener.listen.join(" "));
  text(f.sessions, count(listener.sessions));
  text(f.limit, ` / ${count(listener.max_sessions)}`);
  mark(f.held, count(listener.held), listener.held > 0 ? "warn-text" : "", "");
  text(f.new, rate(per.new));
  text(f.to_client, per.to_client === null ? "–" : `${bytes(per.to_client)}/s`);
  text(f.to_server, per.to_server === null ? "–" : `${bytes(per.to_server)}/s`);
  text(f.total, count(listener.sessions_total));
}

function drawEnds(f, listener) {
  text(f.name, listener.name);
  const ends = Object.entries(listener.ends).sort((a, b) => b[1] - a[1]);
  const told = ends.map(([reason, number]) => `${words(reason)} ${count(number)}`);
  if (told.join() === f.reasons.shown) return;
  f.reasons.shown = told.join();
  f.reasons.replaceChildren(...(told.length > 0 ? told : ["none yet"]).map((reason) => {
    const chip = document.createElement("span");
    chip.className = told.length > 0 ? "chip" : "faint";
    chip.textContent = reason;
    return chip;
  }));
}

function drawEntry(f, entry) {
  text(f.time, clock(entry.at_ms));
  f.time.dateTime = new Date(entry.at_ms).toISOString();
  text(f.cluster, entry.cluster);
  show(f.outage, false);
  if (entry.what === "primary_serves") {
    mark(f.dot, "", "good", "dot");
    text(f.text, `${entry.target} serves, epoch ${entry.epoch ?? "unknown"}`);
    const after = entry.outage_ms === null ? null : `nobody served for ${time(entry.outage_ms)}`;
    text(f.outage, after === null ? "" : entry.outage_ms === 0 ? "without an outage" : after);
    show(f.outage, after !== null);
  } else if (entry.what === "no_primary") {
    mark(f.dot, "", "bad", "dot");
    text(f.text, `No primary: ${entry.why}`);
  } else if (entry.what === "set_by_operator") {
    mark(f.dot, "", "warn", "dot");
    text(f.text, `${entry.target} ${entry.admission} by an operator`);
  } else {
    text(f.text, words(entry.what));
  }
}

// ---- The stream ----

let heardAt = null;
let lostWhy = null;

function heard(status) {
  heardAt = Date.now();
  lostWhy = null;
  drawLink();
  try {
    draw(status);
  } catch (error) {
    // A fault of the page is none of the stream.
    reportError(error);
  }
}

function drawLink() {
  const link = byId("link");
  const silent = heardAt === null ? Infinity : Date.now() - heardAt;
  const isLost = lostWhy !== null || (heardAt !== null && silent > SILENCE_MS);
  mark(link, isLost ? "no answer" : heardAt === null ? "connecting" : "live", isLost ? "down" : heardAt ? "up" : "", "link");
  const since = heardAt === null ? "No answer yet" : `No answer since ${clock(heardAt)} (${time(Math.max(silent, 0))})`;
  const shown = heardAt === null ? "" : " What is shown is from then.";
  text(byId("lost"), isLost ? `${since}${lostWhy ? `: ${lostWhy}` : ""}.${shown} Trying again.` : "");
  show(byId("lost"), isLost);
  byId("main").classList.toggle("is-stale", isLost);
}

// EventSource would neither say why it was refused nor notice that the other end is silent.
async function listen() {
  const abort = new AbortController();
  let alarm;
  const wind = () => {
    clearTimeout(alarm);
    alarm = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  try {
    wind();
    const answer = await fetch("events", { signal: abort.signal, cache: "no-store" });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the proxy has ended the stream");
      wind();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      const last = events.pop();
      if (last !== undefined) heard(JSON.parse(last.replace(/^data: ?/, "")));
    }
  } finally {
    clearTimeout(alarm);
    abort.abort();
  }
}

async function listenForEver() {
  for (;;) {
    try {
      await listen();
    } catch (error) {
      lostWhy = error.name === "AbortError" ? "it is silent" : error instanceof TypeError ? "" : error.message;
    }
    drawLink();
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

// ---- What an operator does ----

let saidTimer;

function say(message, failed) {
  const said = byId("said");
  text(said, message);
  said.classList.toggle("failed", failed);
  show(said, true);
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => show(said, false), SAID_MS);
}

// Shows a dialog; answers whether it was agreed to.
function ask(dialog) {
  return new Promise((done) => {
    const form = dialog.querySelector("form");
    const end = (agreed) => {
      done(agreed);
      dialog.close();
    };
    form.onsubmit = (event) => {
      event.preventDefault();
      end(true);
    };
    dialog.querySelector("[data-close]").onclick = () => end(false);
    // By Escape; the news of an earlier end may come when the dialog is open again.
    dialog.onclose = () => dialog.open || done(false);
    dialog.showModal();
  });
}

function confirm(title, why, yes) {
  text(byId("confirm-title"), title);
  text(byId("confirm-text"), why);
  text(byId("confirm-yes"), yes);
  return ask(byId("confirm-dialog"));
}

async function askToken(why) {
  const input = byId("token");
  input.value = "";
  text(byId("token-why"), why);
  show(byId("token-why"), why !== "");
  const agreed = await ask(byId("token-dialog"));
  if (agreed) sessionStorage.setItem(TOKEN, input.value);
  input.value = "";
  drawSign();
  return agreed;
}

function drawSign() {
  text(byId("sign"), sessionStorage.getItem(TOKEN) === null ? "Operate" : "Forget token");
}

// Asks with the token, and for one that is missing or wrong; null when nobody gives one.
async function request(path, options) {
  let why = "";
  for (;;) {
    if (sessionStorage.getItem(TOKEN) === null && !(await askToken(why))) return null;
    const headers = { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      // A token that is no header's value fails before it is sent; a proxy that is gone, after.
      say(`Not done: ${error.message}`, true);
      return null;
    }
    if (answer.status !== 401) return answer;
    why = (await answer.text()).trim();
    sessionStorage.removeItem(TOKEN);
    drawSign();
  }
}

async function order(path) {
  const answer = await request(path, { method: "POST" });
  if (answer === null) return;
  say((await answer.text()).trim(), !answer.ok);
}

async function admit(cluster, member, what) {
  if (what === "disable") {
    const open = `${count(member.sessions)} ${member.sessions === 1 ? "session" : "sessions"}`;
    const why = `It takes no sessions until it is enabled again. What it has now is cut: ${open}.`;
    if (!(await confirm(`Disable ${member.name}?`, why, "Disable and cut"))) return;
  }
  await order(`clusters/${encodeURIComponent(cluster)}/targets/${encodeURIComponent(member.name)}/${what}`);
}

let sessions = [];

async function loadSessions() {
  const answer = await request("sessions", {});
  if (answer === null) return;
  if (!answer.ok) {
    say((await answer.text()).trim(), true);
    return;
  }
  sessions = await answer.json();
  text(byId("sessions-load"), "Load again");
  show(byId("sessions-filter"), true);
  drawSessions(Date.now());
}

let loadedAt = 0;

function drawSessions(at = loadedAt) {
  loadedAt = at;
  const wanted = byId("sessions-filter").value.trim().toLowerCase();
  const said = (s) => [s.session, s.client, s.listener, s.cluster, s.state, s.target ?? ""].join(" ").toLowerCase();
  const found = sessions.filter((s) => said(s).includes(wanted));
  const shown = found.slice(0, ROWS);
  const cut = shown.length < found.length ? `the first ${count(ROWS)} of ` : "";
  show(byId("sessions-wide"), shown.length > 0);
  text(byId("sessions-note"), `${cut}${count(found.length)} at ${clock(at)}`);
  each(byId("sessions"), shown, (s) => s.session, "session-template", (f, s, row) => {
    for (const field of ["session", "client", "listener", "state"]) text(f[field], s[field]);
    text(f.target, s.target ?? "–");
    text(f.epoch, s.epoch ?? "–");
    text(f.age, time(s.age_ms));
    row.element.querySelector("button").onclick = () => kill(row.item);
  });
}

async function kill(session) {
  const why = `Client ${session.client} on ${session.target ?? "no server yet"}. It is told so and may connect again.`;
  if (!(await confirm(`End session ${session.session}?`, why, "End it"))) return;
  await order(`sessions/${session.session}/kill`);
  await loadSessions();
}

byId("sessions-load").onclick = loadSessions;
byId("sessions-filter").oninput = () => drawSessions();
byId("sign").onclick = () => {
  if (sessionStorage.getItem(TOKEN) === null) {
    askToken("");
  } else {
    sessionStorage.removeItem(TOKEN);
    drawSign();
  }
};

drawSign();
drawLink();
setInterval(drawLink, 1000);
listenForEver();
