// One session: what came last, what may come next, and how well that went so far.

import { clock, milliseconds, percent, plain, put, show, showCommand } from "./text.js";

const $ = (id) => document.getElementById(id);

function make(tag, style, ...children) {
  const node = document.createElement(tag);
  if (style) node.className = style;
  node.append(...children);
  return node;
}

/** Kind and words of what became of a suggestion: `rank` as the app gives it. */
function outcome(rank) {
  if (rank === null || rank === undefined) return { kind: "none", mark: "", words: "had no list before it" };
  if (rank === 0) return { kind: "missed", mark: "○", words: "was not in the list" };
  return { kind: "taken", mark: `✓ ${rank}`, words: `was suggestion ${rank}` };
}

export class Panel {
  constructor() {
    this.id = null;
    this.suggestions = [];
    this.recent = new Map();
  }

  /** Show a session; `isOld`: its suggestions are from before the newest command. */
  render(session, pinned, isOld) {
    const isOther = session.id !== this.id;
    this.id = session.id;
    show($("panel-name"), session.user || session.id);
    show($("panel-session"), session.user ? session.id : "");
    $("panel-dot").hidden = !(session.user && session.file);
    show($("panel-file"), session.file);
    $("pin").setAttribute("aria-pressed", String(pinned));
    put($("pin"), pinned ? "Pinned" : "Pin");
    this.figures(session);
    this.verdict(session);
    this.next(session, isOld, isOther);
    this.history(session, isOther);
  }

  figures(session) {
    put($("hit-rate"), percent(session.hit_rate));
    put($("hit-counts"), session.asked ? `${number(session.hits)} of ${number(session.asked)} lists` : "no list was followed");
    const strip = $("strip");
    const kinds = session.recent.map((event) => outcome(event.suggested).kind);
    while (strip.children.length > kinds.length) strip.lastChild.remove();
    kinds.forEach((kind, at) => (strip.children[at] ?? strip.appendChild(make("i"))).setAttribute("data-kind", kind));
    const taken = kinds.filter((kind) => kind === "taken").length;
    put($("lately"), `${taken} of ${kinds.length} had been suggested`);
    const { last, median, p95 } = session.latency_ms;
    put($("latency-last"), milliseconds(last));
    put($("latency-rest"), median === null ? "" : `median ${milliseconds(median)}, p95 ${milliseconds(p95)}`);
    put($("events"), number(session.events));
    const time = clock(session.recent.at(-1)?.time);
    put($("last-time"), time && `the last at ${time}`);
  }

  verdict(session) {
    const newest = session.recent.at(-1);
    $("verdict").hidden = !newest;
    if (!newest) return;
    const { kind, mark, words } = outcome(session.last_taken);
    $("verdict").setAttribute("data-kind", kind);
    put($("verdict-mark"), mark);
    const text = $("verdict-text");
    if (!text.firstChild) text.append(make("bdi", "command"), " ", make("span", "words"));
    showCommand(text.firstChild, newest.command);
    put(text.lastChild, words);
  }

  next(session, isOld, isOther) {
    const wanted = session.suggestions;
    const list = $("suggestions");
    $("stale").hidden = !(isOld && wanted.length);
    list.classList.toggle("old", isOld);
    $("no-suggestions").hidden = wanted.length > 0;
    const none = session.stale ? "Waiting for the endpoint." : "No suggestions for this session yet.";
    put($("no-suggestions"), isOld ? "The endpoint has not answered yet." : none);
    while (this.suggestions.length > wanted.length) this.suggestions.pop().item.remove();
    wanted.forEach((suggestion, at) => {
      const row = this.suggestions[at] ?? this.addSuggestion(list);
      const isNew = showCommand(row.name, suggestion.command);
      show(row.description, suggestion.description);
      put(row.value, suggestion.probability === null ? suggestion.score.toFixed(2) : percent(suggestion.probability));
      row.value.title = `score ${suggestion.score.toFixed(3)}`;
      row.bar.style.setProperty("--share", String(share(suggestion, wanted)));
      if (isNew && !isOther) restart(row.item);
    });
  }

  addSuggestion(list) {
    const row = {
      name: make("bdi", "command"),
      value: make("span", "value"),
      bar: make("span", "bar"),
      description: make("bdi", "description"),
    };
    row.bar.setAttribute("aria-hidden", "true");
    row.item = make("li", "", make("span", "line", row.name, " ", row.value), row.bar, row.description);
    list.append(row.item);
    this.suggestions.push(row);
    return row;
  }

  history(session, isOther) {
    const list = $("recent");
    if (isOther) {
      this.recent.clear();
      list.replaceChildren();
    }
    const first = session.events - session.recent.length;
    for (const [at, row] of this.recent) {
      if (at >= first && at < session.events) continue;
      row.item.remove();
      this.recent.delete(at);
    }
    session.recent.forEach((event, n) => {
      const row = this.recent.get(first + n) ?? this.addEvent(list, first + n, !isOther);
      const { kind, mark, words } = outcome(event.suggested);
      showCommand(row.name, event.command);
      show(row.description, event.description);
      put(row.time, clock(event.time));
      put(row.mark, mark);
      row.mark.title = words;
      row.mark.setAttribute("aria-label", words);
      row.mark.setAttribute("data-kind", kind);
    });
  }

  addEvent(list, at, isNew) {
    const row = {
      mark: make("span", "chip"),
      name: make("bdi", "command"),
      time: make("time"),
      description: make("bdi", "description"),
    };
    row.mark.setAttribute("role", "img");
    row.item = make("li", isNew ? "new" : "", row.mark, make("span", "what", row.name, row.description), row.time);
    list.prepend(row.item);
    this.recent.set(at, row);
    return row;
  }
}

function number(count) {
  return count.toLocaleString("en");
}

/** Length of a bar, 0 to 1: the probability, or where there is none the place of the score among those shown. */
function share(suggestion, all) {
  if (suggestion.probability !== null) return Math.min(1, Math.max(0, suggestion.probability));
  const scores = all.map((other) => other.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return high > low ? 0.1 + (0.9 * (suggestion.score - low)) / (high - low) : 1;
}

/** Let a row's animation begin anew. */
function restart(item) {
  item.classList.remove("changed");
  void item.offsetWidth;
  item.classList.add("changed");
}

/** What a screen reader says of a session's newest command. */
export function spoken(session) {
  const newest = session.recent.at(-1);
  if (!newest) return "";
  const names = session.suggestions.slice(0, 3).map((suggestion) => plain(suggestion.command, 60));
  const next = names.length && !session.stale ? ` Next: ${names.join(", ")}.` : "";
  return `${plain(newest.command, 60)} ${outcome(session.last_taken).words}.${next}`;
}
