// The list of sessions: tabs with one stop of the Tab key, arrows, Home and End; P pins, Escape follows the newest.

import { age, percent, plain, put, show, showCommand } from "./text.js";

/** Milliseconds between two sorts, so that rows do not jump while many people work. */
const CALM = 1500;

export class SessionList {
  /**
   * @param {import("./store.js").Store} store
   * @param {() => void} changed is told when a person chose, pinned or followed
   */
  constructor(store, changed) {
    this.store = store;
    this.changed = changed;
    this.list = document.getElementById("sessions");
    this.rows = new Map();
    this.made = 0;
    this.pointed = false;
    this.rendering = false;
    this.sortedAt = -Infinity;
    this.shown = null;
    /** Whether rows wait to be sorted. */
    this.unsorted = false;
    this.list.addEventListener("pointerenter", (event) => (this.pointed = event.pointerType === "mouse"));
    this.list.addEventListener("pointerleave", () => {
      this.pointed = false;
      this.changed();
    });
    this.list.addEventListener("focusout", (event) => {
      // Rows that are moved or removed lose the focus as well.
      if (!this.rendering && !this.list.contains(event.relatedTarget)) this.changed();
    });
    this.list.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) this.choose(tab.session, false);
    });
    this.list.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const tabs = [...this.list.children];
    const at = tabs.findIndex((tab) => tab.session === this.store.selected);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to !== undefined) {
      const tab = tabs[Math.min(Math.max(to, 0), tabs.length - 1)];
      if (tab) this.choose(tab.session, true);
    } else if (event.key === "p" || event.key === "P") {
      this.store.togglePin(this.store.selected);
      this.changed(true);
    } else if (event.key === "Escape") {
      this.store.followNewest();
      this.changed();
      this.focusSelected();
    } else return;
    event.preventDefault();
  }

  choose(id, focus) {
    this.store.select(id);
    this.changed();
    if (focus) this.focusSelected();
  }

  focusSelected() {
    this.rows.get(this.store.selected)?.tab.focus({ preventScroll: this.rendering });
  }

  /** Bring the list up to date; its order stands still while a person is in it, unless `sort`. */
  render(sort = false) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    const wanted = this.store.ordered();
    this.rendering = true;
    for (const [id, row] of this.rows) {
      if (this.store.sessions.has(id)) continue;
      row.tab.remove();
      this.rows.delete(id);
    }
    const order = sort || this.mayMove(focused, wanted.length) ? wanted : this.held(wanted);
    this.unsorted = order !== wanted && order.some((session, at) => session !== wanted[at]);
    if (order === wanted) this.sortedAt = performance.now();
    order.forEach((session, at) => this.place(this.update(session), at));
    if (sort) this.shown = null;
    if (sort || !(focused || this.pointed)) this.reveal();
    if (focused && document.activeElement !== focused) this.focusSelected();
    this.rendering = false;
  }

  mayMove(focused, count) {
    if (focused || this.pointed) return false;
    return count !== this.list.children.length || performance.now() - this.sortedAt > CALM;
  }

  /** Scroll a session that was chosen elsewhere into the list, and nothing but the list. */
  reveal() {
    if (this.store.selected === this.shown) return;
    this.shown = this.store.selected;
    const tab = this.rows.get(this.shown)?.tab;
    if (!tab) return;
    const [row, list] = [tab.getBoundingClientRect(), this.list.getBoundingClientRect()];
    if (row.top < list.top) this.list.scrollTop -= list.top - row.top;
    else if (row.bottom > list.bottom) this.list.scrollTop += row.bottom - list.bottom;
  }

  held(wanted) {
    const here = [...this.list.children].map((tab) => this.store.sessions.get(tab.session));
    return [...here, ...wanted.filter((session) => !this.rows.has(session.id))];
  }

  place(tab, at) {
    const there = this.list.children[at];
    if (there !== tab) this.list.insertBefore(tab, there ?? null);
  }

  update(session) {
    const row = this.rows.get(session.id) ?? this.make(session.id);
    const selected = session.id === this.store.selected;
    show(row.name, session.user || session.id);
    row.tab.title = plain(`${session.id} · ${session.file}`, 200);
    const last = session.recent.at(-1);
    if (last) showCommand(row.last, last.command);
    else show(row.last, "no command yet");
    put(row.rate, session.hit_rate === null ? "" : percent(session.hit_rate));
    row.rate.title = `hit rate, ${session.hits} of ${session.asked}`;
    put(row.pin, this.store.pinned.has(session.id) ? "pinned" : "");
    row.since = Date.parse(session.changed);
    row.tab.setAttribute("aria-selected", String(selected));
    row.tab.tabIndex = selected ? 0 : -1;
    this.tickRow(row);
    return row.tab;
  }

  make(id) {
    const part = (tag, name) => Object.assign(document.createElement(tag), { className: name });
    const tab = part("button", "row");
    const name = part("bdi", "row-name");
    const last = part("bdi", "row-last");
    const [pin, time, rate] = ["row-pin", "row-age", "row-rate"].map((style) => part("span", style));
    tab.type = "button";
    tab.id = `session-${(this.made += 1)}`;
    tab.session = id;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "panel");
    const top = part("span", "row-line");
    const bottom = part("span", "row-line");
    // The blanks part the words for a screen reader.
    top.append(name, " ", pin, " ", time, " ");
    bottom.append(last, " ", rate);
    tab.append(top, bottom);
    const row = { tab, name, last, pin, time, rate, since: NaN };
    this.rows.set(id, row);
    return row;
  }

  /** Let the ages of the rows go on. */
  tick() {
    for (const row of this.rows.values()) this.tickRow(row);
  }

  tickRow(row) {
    put(row.time, Number.isNaN(row.since) ? "" : age(row.since));
  }
}
