// Ties the connection, what the app said and the views together.

import { Connection } from "./connection.js";
import { Panel, spoken } from "./panel_view.js";
import { SessionList } from "./sessions_view.js";
import { Store } from "./store.js";
import { clock, plain, put } from "./text.js";

/** Milliseconds between two announcements to a screen reader. */
const SPEAK = 4000;

const $ = (id) => document.getElementById(id);
const store = new Store();
const list = new SessionList(store, draw);
const panel = new Panel();
const connection = new Connection(take, drawConnection);
let isDrawn = true;
let saidAt = 0;
let toSay = "";
let oldTimer;

function take(message) {
  store.apply(message);
  if (message.type === "session" && message.session.id === store.selected) toSay = spoken(message.session);
  // Many messages between two frames are drawn once; a page in the background is not drawn at all.
  if (isDrawn) requestAnimationFrame(() => draw());
  isDrawn = false;
}

function draw(sort = false) {
  isDrawn = true;
  const session = store.sessions.get(store.selected);
  document.body.classList.toggle("with-sessions", Boolean(session));
  $("empty").hidden = Boolean(session);
  $("rail").hidden = $("panel").hidden = !session;
  put($("session-count"), session ? String(store.sessions.size) : "");
  $("follow").setAttribute("aria-pressed", String(store.follow));
  list.render(sort === true);
  if (session) drawPanel(session);
  drawConnection();
}

function drawPanel(session) {
  const left = store.untilOld(session.id);
  clearTimeout(oldTimer);
  if (left > 0 && left < Infinity) oldTimer = setTimeout(draw, left);
  panel.render(session, store.pinned.has(session.id), left === 0);
}

function drawEndpoint() {
  const endpoint = store.endpoint;
  const node = $("endpoint-state");
  const isKnown = endpoint && connection.state === "live";
  node.setAttribute("data-state", isKnown ? endpoint.state : "unknown");
  put(node, isKnown ? nameOf(endpoint) : "unknown");
  if (!isKnown) {
    $("endpoint-banner").hidden = true;
    return;
  }
  const said = endpoint.message ? ` (${plain(endpoint.message, 300)})` : "";
  const words = {
    unreachable: `The endpoint does not answer${said}. Commands are read all the same; suggestions come back by themselves.`,
    refusing: `The endpoint refuses what it is asked${said}. Commands are read all the same.`,
  };
  $("endpoint-banner").setAttribute("data-kind", endpoint.state === "refusing" ? "bad" : "warn");
  $("endpoint-banner").hidden = !(endpoint.state in words);
  put($("endpoint-banner-text"), words[endpoint.state] ?? "");
}

function nameOf({ state, model, name }) {
  const place = name.replace(/^[a-z]+:\/\//, "");
  return plain(`${state} · ${[model, place].filter(Boolean).join(" at ")}`, 80);
}

function drawConnection() {
  const { state, attempt, lostAt, retryAt } = connection;
  const isLost = state === "waiting" || state === "trying";
  const node = $("page-state");
  node.setAttribute("data-state", store.outdated ? "refusing" : isLost ? "unreachable" : state === "live" ? "ready" : "waiting");
  put(node, store.outdated ? "outdated" : isLost ? "reconnecting" : state === "live" ? "live" : "connecting");
  document.title = isLost ? "(reconnecting) recsys live" : "recsys live";
  document.body.classList.toggle("lost", isLost);
  $("page-banner").hidden = !isLost && !store.outdated;
  if (store.outdated) put($("page-banner-text"), "The app is newer than this page. Load the page again.");
  else if (isLost) {
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    const when = state === "trying" ? "trying now" : `next try in ${seconds} s`;
    const since = store.known ? `What you see is from ${clock(lostAt)}` : "Nothing was received yet";
    put($("page-banner-text"), `The app does not answer. ${since}; ${when} (try ${attempt}).`);
  }
  $("try-now").hidden = state !== "waiting" && !store.outdated;
  put($("try-now"), store.outdated ? "Load again" : "Try now");
  drawEmpty(isLost);
  drawEndpoint();
}

function drawEmpty(isLost) {
  const [title, text] = isLost
    ? ["The app does not answer", "The page goes on trying; sessions appear as soon as it is there."]
    : store.known
      ? ["Waiting for commands", "Sessions appear here as soon as a line is written to a watched log."]
      : ["Connecting", "The page asks the app for its sessions."];
  put($("empty-title"), title);
  put($("empty-text"), text);
}

function speak(text) {
  saidAt = performance.now();
  toSay = "";
  put($("spoken"), text);
}

let wasLost = false;
function tick() {
  list.tick();
  if ((store.follow && store.settle()) || list.unsorted) draw();
  drawConnection();
  const isLost = connection.state === "waiting" || connection.state === "trying";
  if (isLost !== wasLost) speak(isLost ? "The app does not answer; trying again." : "Connected again.");
  else if (toSay && performance.now() - saidAt > SPEAK) speak(toSay);
  wasLost = isLost;
}

$("try-now").addEventListener("click", () => (store.outdated ? location.reload() : connection.tryNow()));
$("follow").addEventListener("click", () => {
  if (store.follow) store.select(store.selected);
  else store.followNewest();
  draw();
});
$("pin").addEventListener("click", () => {
  store.togglePin(store.selected);
  draw(true);
});
setInterval(tick, 1000);
